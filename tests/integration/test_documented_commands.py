"""Runs the commands of README and docs as they are written.

Each training command has to make progress, then gets Ctrl-C and must end well; any other command has to succeed. Those
of README are in the default suite, all others are run by `make test-commands`. What is not run here is listed with the
reason.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.documents import ALL_COMMANDS, Command
from tests.support.runs import ROOT, frames

NOT_RUN = {
    r"^sudo ": "changes the machine",
    r"^(git|cd) ": "is about somebody's own checkout",
    r"^make (test|lint|types|install|manifests|docs|clean|learn)\b": "is this suite, or a step of integration",
    r"^make bench|benchmarks\.|sandbox/scaling/(overhead|staged|limited)": "measures for minutes; "
    "tests/integration/test_benchmarks.py runs each benchmark with small settings",
    r"run_experiment_mm_raw\.py +(check|up|keep|status|down|dry-run) .*(workers\.csv|/data/)": "needs hosts; "
    "tests/cluster runs every command of the frontend on hosts of its own",
    r"^make case-studies": "writes into sandbox/; the command that it runs is run with another folder",
    r"^pip install|^mlma (train|install)": "needs an environment without a checkout; "
    "tests/integration/test_installed_package.py runs the wheel",
    r"^mkdir -p ~|^mlma completion": "writes into the home directory; tests/unit/test_command.py reads the scripts",
    r"uv pip install": "asks the package index for a package",
    r"health_check": "needs a worker's heartbeat folder; tests/integration/test_health.py runs it",
    r"^\(echo|^for ": "writes the CSV of a lab",
    r"my_levels:|\$MLMA/": "needs the file of the guide; tests/integration/test_own_code.py runs it",
    r"--preset=r2d2": "fills a replay of 200,000 steps before it learns, which takes minutes on two cores; "
    "tests/unit/test_presets.py checks its values",
    r"install-(mujoco|box2d)|HalfCheetah|BipedalWalker": "needs a simulator of its own; Pendulum-v1 on the same page "
    "needs none",
    r"mlma\.studies .*(population|optuna|--seeds=4)|_population/members": "trains for minutes, or needs the hosts of a "
    "lab; tests/integration/test_studies.py and tests/cluster/test_studies_on_hosts.py have populations, sweeps with "
    "Optuna, and seeds with fewer frames",
    r"--dmlab_path": "needs the Lab; tests/unit/test_dmlab.py has levels of a stand-in",
    r"stand_in": "trains for minutes; tests/unit/test_dmlab.py has runs on the stand-in",
    r"atari57": "57 games at once take minutes to start on two cores; tests/integration/test_atari57.py runs them",
}
READ_BY_PEOPLE = "README.md"
COMMANDS = list(dict.fromkeys(c for c in ALL_COMMANDS if c.document.startswith((READ_BY_PEOPLE, "docs/"))))


def reason_not_to_run(command: Command) -> str:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command.text)), "")


def parameters() -> list[Any]:
    """README's commands first; a command that stands in several documents is run once."""
    seen: set[str] = set()
    chosen = []
    for command in sorted(COMMANDS, key=lambda command: command.document != READ_BY_PEOPLE):
        if command.text in seen or reason_not_to_run(command):
            continue
        seen.add(command.text)
        quick = command.document == READ_BY_PEOPLE and not re.search("LEVEL=(?!catch)", command.text)
        marks = () if quick else (pytest.mark.commands,)
        chosen.append(pytest.param(command, marks=marks, id=f"{command.document}: {command.text.splitlines()[0][:70]}"))
    return chosen


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that looks like this checkout but has a logdir of its own, with some finished runs."""
    folder = tmp_path_factory.mktemp("documents") / "checkout"
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("logdir", "site", ".git"):
            (folder / path.name).symlink_to(path)
    if not (folder / ".venv").exists():
        (folder / ".venv").symlink_to(Path(sys.prefix))
    flags = ["--level_name=catch", "--total_environment_frames=20000", "--report_every_seconds=0.5"]
    for name in ("catch", "run1"):
        subprocess.run([sys.executable, "experiment.py", *flags, f"--logdir=logdir/{name}"], cwd=folder, check=True)
    for name in ("run2", "run3"):
        shutil.copytree(folder / "logdir" / "run1", folder / "logdir" / name)
    yield folder
    if (folder / "logdir" / "csv").exists():
        down = [sys.executable, "run_experiment_mm_raw.py", "down", "--logdir=logdir/csv"]
        subprocess.run(down, cwd=folder, timeout=120, check=False)


def environment() -> dict[str, str]:
    """With Python and mpirun of this environment first, with what mpirun wants of root, without the flags of a make."""
    root = {f"{name}_ALLOW_RUN_AS_ROOT{end}": "1" for name in ("OMPI", "PRTE") for end in ("", "_CONFIRM")}
    makes = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS")  # of `make test ARGS=...`
    inherited = {name: value for name, value in os.environ.items() if name not in makes}
    return inherited | root | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def logdir_of(text: str) -> str:
    """Where a training command writes; "" for any other command."""
    if match := re.search(r"^make train\b(.*)", text):
        level = re.search(r"LEVEL=(\S+)", match[1])
        given = re.search(r"LOGDIR=(\S+)", match[1])
        return given[1] if given else f"logdir/{(level[1] if level else 'PongNoFrameskip-v4').replace('/', '-')}"
    trains = re.search(r"experiment\.py", text) and not re.search(r"--mode=test|--help|=help", text)
    found = re.search(r"--logdir=(\S+)", text)
    return found[1] if trains and found else ""


def run_until_progress(script: str, folder: Path, logdir: Path) -> tuple[int, str]:
    """Stops a training run as a terminal does, once it reports more frames. Returns exit code and output."""
    before = frames(logdir)
    output = folder / f"output-{time.time_ns()}"
    with output.open("wb") as out:
        run = subprocess.Popen(
            ["bash", "-c", script], cwd=folder, stdout=out, stderr=out, env=environment(), start_new_session=True
        )
    try:
        end = time.monotonic() + 240
        while run.poll() is None and frames(logdir) <= before and time.monotonic() < end:
            time.sleep(0.2)
        assert frames(logdir) > before, output.read_text()[-3000:]
        if run.poll() is None:
            if script.startswith("mpirun"):  # SIGINT makes it kill the learners: docs/guides/several_learners.md
                os.kill(run.pid, signal.SIGUSR1)
            else:
                os.killpg(run.pid, signal.SIGINT)
        code = run.wait(60)
        end = time.monotonic() + 30  # an interrupted make or shell may end before what it started
        while "ended after" not in output.read_text() and time.monotonic() < end:
            time.sleep(0.2)
        return code, output.read_text()
    finally:  # what a shell started with & may ignore SIGINT, and outlive it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


@pytest.mark.parametrize("command", parameters())
@pytest.mark.timeout(400)
def test_a_documented_command_runs_as_written(command: Command, checkout: Path) -> None:
    script = command.text
    if "run_experiment_mm_raw" in script and not shutil.which("tmux"):
        pytest.skip("no tmux")
    if logdir := logdir_of(script):
        if logdir != "logdir/catch":  # the finished run; another command may have left one of another algorithm
            shutil.rmtree(checkout / logdir, ignore_errors=True)
        code, output = run_until_progress(script, checkout, checkout / logdir)
        assert "ended after" in output, output[-3000:]
        assert code in (0, 2, 130, -2), f"exit code {code}; an interrupted make or shell has one of the others"
    elif "tensorboard" in script:
        server = subprocess.Popen(script.split(), cwd=checkout, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(10)
        assert server.poll() is None, "TensorBoard ended by itself"
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    else:
        done = subprocess.run(
            ["bash", "-c", script], cwd=checkout, capture_output=True, text=True, env=environment(), timeout=300
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_every_documented_command_is_run_or_has_a_reason() -> None:
    run = {parameter.values[0].text for parameter in parameters()}
    left = [command for command in COMMANDS if command.text not in run and not reason_not_to_run(command)]
    assert left == []
    assert len(run) > 30
