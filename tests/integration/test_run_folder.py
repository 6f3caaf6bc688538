"""The folder of a run: one run at a time, leftovers of dead ones swept, another user's refused, a default by level."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlma.core.config import parse, with_logdir
from mlma.roles import run_folder
from mlma.roles.run_folder import claim_run_folder
from mlma.utils.own_files import socket_folder
from tests.support.runs import ROOT, SMALL, Process

DEAD = 2**22 + 1  # above the highest process id


@pytest.fixture(autouse=True)
def no_locks_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends the locks that a test takes in this process."""
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.3)
    yield
    while run_folder._locks:
        run_folder._locks.pop().close()


def claim(folder: Path) -> None:
    """As the first learner does it."""
    claim_run_folder(parse([f"--logdir={folder}"]))


def holder(folder: Path) -> subprocess.Popen[bytes]:
    """A process that has locked the folder."""
    code = "import sys, time; from tests.integration.test_run_folder import claim; from pathlib import Path\n"
    code += "claim(Path(sys.argv[1])); print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_second_run_in_a_folder_is_refused_with_the_process_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holder(folder) as first:
        with pytest.raises(
            ValueError, match=f"--logdir={folder}: process {first.pid} on {socket.gethostname()} .since"
        ):
            claim(folder)
        claim(tmp_path / "other")
        first.kill()
        first.wait()
        claim(folder)  # nothing of a dead predecessor is in the way


def test_a_restart_waits_for_a_predecessor_that_is_about_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 60.0)
    with holder(tmp_path) as first:
        threading.Timer(0.5, first.kill).start()
        claim(tmp_path)


def test_a_lock_without_a_record_still_holds(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as file:  # the disk was full when the first run started
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process trains there; allowed: another --logdir"):
            claim(tmp_path)


@pytest.mark.parametrize("extra", [[], ["--num_learners=2"]], ids=["one learner", "two learners"])
def test_training_is_refused_in_a_folder_that_is_in_use(tmp_path: Path, extra: list[str]) -> None:
    claim(tmp_path / "run")
    with Process(tmp_path, "run", *SMALL, f"--logdir={tmp_path}/run", *extra) as second:
        assert second.wait(120) == 2, second.text()
        line = f"--logdir={tmp_path}/run: process {os.getpid()} on {socket.gethostname()} (since "
        assert second.text().count(line) == 1, second.text()
        assert "Traceback" not in second.text()
    test = [*SMALL, "--mode=test", f"--logdir={tmp_path}/run"]
    with Process(tmp_path, "test", *test) as evaluation:
        assert evaluation.wait(120) == 2
        assert "--test_checkpoint=last: no such checkpoint in" in evaluation.text(), "an evaluation takes no lock"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("extra", [[], ["--num_learners=2"], ["--mode=test"]])
def test_a_folder_that_another_user_prepared_is_refused(tmp_path: Path, extra: list[str]) -> None:
    folder, victim = tmp_path / "run", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("precious")
    (folder / "metrics.csv").symlink_to(victim)
    os.chown(folder, 12345, 12345)
    with Process(tmp_path, "run", *SMALL, f"--logdir={folder}", *extra) as run:
        assert run.wait(120) == 2
        assert run.text() == f"--logdir={folder}: belongs to user 12345; must belong to root\n"
    assert victim.read_text() == "precious"


def test_what_killed_saves_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    dead = [
        tmp_path / f"checkpoints/.checkpoint-000000007.npz.{DEAD}",
        tmp_path / f"checkpoints/.replay-0.bin.{DEAD}",
        tmp_path / f".metrics.csv.{DEAD}",
        tmp_path / f".workers.json.{DEAD}",
    ]
    kept = [
        tmp_path / f".checkpoint-000000007.npz.{os.getppid()}",
        tmp_path / f".mine.{DEAD}",
        tmp_path / "checkpoints/checkpoint-000000007.npz",
    ]
    for path in (*dead, *kept):
        path.write_text("")
    claim(tmp_path)
    assert [path for path in dead if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []


def test_sockets_and_autograph_files_of_dead_processes_are_swept_and_no_live_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = ("mlma-dead0000", "mlma-old00000", "mlma-young000", "mlma-hosts-00", "mlma-mine0000")
    dead, old, young, foreign, mine = (tmp_path / name for name in names)
    for folder in (dead, old, young, foreign, mine):
        folder.mkdir()
    (dead / "lock").write_text("")
    (mine / "notes").write_text("")
    for folder in (dead, old, mine):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "learner"))
        os.utime(folder, (0, 0))
    generated = [tmp_path / f"__autograph_generated_file{name}.py" for name in ("old", "new")]
    for path in generated:
        path.write_text("")
    os.utime(generated[0], (0, 0))
    with socket_folder() as live:
        os.utime(live, (0, 0))
        claim(tmp_path / "run")
        assert live.exists()
    assert not live.exists()
    assert [path.exists() for path in (dead, old, young, foreign, mine)] == [False, False, True, True, True]
    assert [path.exists() for path in generated] == [False, True]


LEVELS = {
    "catch": "catch",
    "ALE/Pong-v5": "ALE-Pong-v5",
    "atari_pong,atari_breakout": "atari_pong-atari_breakout",
    "my_levels:Room-v0": "my_levels-Room-v0",
    "atari57": "atari57",
}


@pytest.mark.parametrize("level", LEVELS)
def test_the_default_folder_is_that_of_the_level_with_and_without_make(level: str) -> None:
    expected = f"logdir/{LEVELS[level]}"
    assert with_logdir(parse([f"--level_name={level}"])).run.logdir == expected
    printed = subprocess.run(["make", "help", f"LEVEL={level}"], cwd=ROOT, capture_output=True, text=True).stdout
    assert f"[LOGDIR={expected}]" in printed


def test_no_level_gets_out_of_the_folder_of_runs() -> None:
    for level in ("../../etc", "..", "", "/", "a" * 500, " , ", "x\n\0y"):
        folder = with_logdir(parse([]).replace(level_name=level)).run.logdir
        assert Path(folder).parent == Path("logdir") and len(folder) < 120 and ".." not in Path(folder).parts
    assert with_logdir(parse(["--logdir=/runs/x"])).run.logdir == "/runs/x"


def test_training_and_evaluation_find_the_same_default_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "experiment.py")]
    flags = ["--level_name=catch", "--num_actors=1", "--total_environment_frames=2000"]
    for extra in ([], ["--mode=test", "--test_num_episodes=1"]):
        done = subprocess.run([*command, *flags, *extra], cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "logdir/catch/evaluation").glob("*.json"))
