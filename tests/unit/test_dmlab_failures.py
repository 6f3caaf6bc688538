"""DeepMind Lab that cannot start, dies or is killed: what is said, and what is left. With the fake of test_dmlab.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlma.core.config import EnvironmentConfig, parse
from mlma.envs.failures import SimulatorLostError, find_failures
from mlma.envs.registry import make_env
from mlma.envs.trial import try_levels
from mlma.envs.vector import temp_folder
from mlma.roles.preparation import prepare
from tests.support.env_steps import run as run_env
from tests.support.lab import STAND_IN, TEST, TRAIN, entries, make_settings
from tests.support.runs import ROOT, gone, wait_for


def test_no_temporary_file_is_left_however_a_process_ends(lab_log: Path, tmp_path: Path) -> None:
    program = (
        "import sys; import numpy as np; from mlma.core.config import EnvironmentConfig\n"
        "from mlma.envs.registry import env_spec, make_for_levels\n"
        f"settings = EnvironmentConfig(level_name='rooms_watermaze,{TRAIN}', level_cache='')\n"
        "env = make_for_levels(settings, env_spec(settings), [0, 1], 1); env.reset()\n"
        "print(*[pid for _, group, _ in env._groups for pid in group.pids()], flush=True)\n"
        "while True: env.step(np.zeros(2, int))"
    )
    temporary = tmp_path / "temporary"

    def left() -> list[Path]:
        return [path for path in temporary.iterdir() if path.name.startswith(("mlma-run-", "dmlab_temp"))]

    def folders() -> list[Path]:
        return list(temporary.glob("mlma-run-*/*/dmlab_temp_folder_*"))

    command = [sys.executable, "-c", program]
    options: Any = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(STAND_IN)}, **options) as parent:
        assert parent.stdout
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert len(folders()) == 2
        before = set(folders())
        os.kill(workers[0], signal.SIGKILL)  # the parent removes the folder of a worker that it replaces
        wait_for(lambda: len(folders()) == 2 and len(before & set(folders())) == 1, 30, lambda: str(folders()))
        parent.kill()
    wait_for(lambda: not left(), 10, lambda: str(left()))
    assert gone(workers)


def test_leftovers_of_killed_processes_are_swept_and_folders_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    leftover = tmp_path / "mlma-run-leftover"
    (leftover / "worker").mkdir(parents=True)
    used = temp_folder.OwnFolder()
    assert not leftover.exists()
    temp_folder.sweep()
    assert used.path.exists()
    used.close()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_closes_its_environment_on_sigterm(lab_log: Path, tmp_path: Path) -> None:
    env: Any = make_env("rooms_watermaze", 1, 1, make_settings(tmp_path))
    env.reset()
    (folder,) = (tmp_path / "temporary").glob("*/*/dmlab_temp_folder_*")
    os.kill(env.pids()[0], signal.SIGTERM)
    wait_for(lambda: not folder.exists(), 10, lambda: f"{folder} is left")
    env.close()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"level_name": "rooms_watermaze", "width": 90}, "--width=90: must be a multiple of 4 in DeepMind Lab"),
        (
            {"level_name": "dmlab30"},
            "--dataset_path=: is empty; the levels psychlab_arbitrary_visuomotor_mapping and "
            "psychlab_continuous_recognition need a folder of pictures",
        ),
        ({"level_name": "dmlab30", "dataset_path": "/no/such"}, "--dataset_path=/no/such: no such folder; the levels"),
        ({"level_name": "rooms_watermaze", "dmlab_path": "/no/such"}, "--dmlab_path=/no/such: has neither deepmind_l"),
        ({"level_name": TEST}, f"--level_name={TEST}: cannot be opened: RuntimeError at .*: Hold-out levels are not"),
        ({"level_name": "dmlab/no_such"}, "dmlab/no_such: cannot be opened: RuntimeError .*Failed to start level scri"),
        (
            {"level_name": "dmlab/demos/missing_map"},
            "missing_map: its process ended with code 1 while it was tried before training; its last lines: "
            r"----- Server Initialization ----- \| ERROR: Couldn't load maps/missing.bsp",
        ),
    ],
)
def test_a_level_that_cannot_start_is_found_before_training_with_the_simulators_own_words(
    lab_log: Path, flags: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        try_levels(EnvironmentConfig(**flags))
    assert "\n" not in str(caught.value)
    assert list((lab_log.parent / "temporary").glob("mlma*")) == []


@pytest.mark.parametrize(
    ("level", "line"),
    [
        ("no_such", "dmlab/no_such: cannot be opened: RuntimeError .*Failed to start level script"),
        ("demos/missing_map", "ended with code 1 while it was tried before evaluation; .* ERROR: Couldn't load maps/"),
    ],
)
def test_a_level_that_cannot_start_is_found_before_evaluation(
    lab_log: Path, tmp_path: Path, level: str, line: str
) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        prepare(parse(["--mode=test", f"--level_name=dmlab/{level}", f"--logdir={tmp_path}", "--level_cache="]))
    assert "\n" not in str(caught.value)


def test_the_test_level_is_tried_before_evaluation(lab_log: Path, tmp_path: Path) -> None:
    prepare(parse(["--mode=test", f"--level_name={TRAIN}", f"--logdir={tmp_path}", "--level_cache="]))
    (entry,) = entries(lab_log, "start")
    assert (entry["start"], entry["config"]["allowHoldOutLevels"]) == (f"contributed/dmlab30/{TEST}", "true")


def test_a_package_that_the_module_needs_is_named(lab_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_WITHOUT", "dm_env")
    line = "opened: ModuleNotFoundError: No module named 'dm_env'; install it with: make install-dmlab, or load the ext"
    with pytest.raises(ValueError, match=line):
        try_levels(EnvironmentConfig(level_name="rooms_watermaze"))


def test_a_slow_level_does_not_delay_the_answer_about_another(lab_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_COMPILE_SECONDS", "60")
    began = time.monotonic()
    with pytest.raises(ValueError, match="missing_map: its process ended with code 1"):
        try_levels(EnvironmentConfig(level_name="rooms_watermaze,dmlab/demos/missing_map", level_cache=""))
    assert time.monotonic() - began < 30


def test_a_simulator_that_dies_later_ends_with_its_last_words(
    lab_log: Path, log_lines: Callable[[], list[str]]
) -> None:
    env = make_env("dmlab/demos/missing_map", 1, 1, EnvironmentConfig(level_cache=""))
    with pytest.raises(SimulatorLostError) as caught:
        env.reset()
    words = "its last lines: ----- Server Initialization ----- | ERROR: Couldn't load maps/missing.bsp"
    end = f"worker ended with code 1; 3 workers in a row failed; {words} (after 0 steps in 0.0 s)"
    assert str(caught.value) == f"dmlab/demos/missing_map: {end}"
    assert any(f"starting a new worker; {words}" in line for line in log_lines())
    (failure,) = find_failures(f"Traceback\nmlma.envs.failures.SimulatorLostError: {caught.value}\n")
    assert failure.is_young
    assert failure.kind == "dmlab/demos/missing_map: worker ended with code 1; 3 workers in a row failed"
    env.close()


@pytest.mark.slow
def test_a_constructor_that_raises_in_a_worker_is_found_in_the_log(
    lab_log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    env = make_env("dmlab/no_such", 1, 1, EnvironmentConfig(level_cache=""))
    with pytest.raises(SimulatorLostError, match="RuntimeError: Failed to start level script 'no_such'"):
        env.reset()
    env.close()
    kinds = {failure.kind for failure in find_failures(capfd.readouterr().err)}
    assert len(kinds) == 1
    assert kinds.pop().startswith("dmlab/no_such: opening it raised RuntimeError at ")


def test_a_simulator_that_exits_again_and_again_ends_with_its_last_words(
    lab_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_EXIT_AT_RESET", "2")
    env = make_env("rooms_watermaze", 1, 1, EnvironmentConfig(level_cache="", max_env_errors=2))
    env.reset()
    with pytest.raises(SimulatorLostError) as caught:
        run_env(env, np.zeros((200, 1), np.int32))
    env.close()
    (failure,) = find_failures(f"mlma.envs.failures.SimulatorLostError: {caught.value}\n")
    assert failure.kind == "rooms_watermaze: 2 errors of environments (--max_env_errors)"
    assert "Couldn't load maps" in failure.line
    assert failure.is_young


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "test"])
def test_a_run_with_a_lab_that_cannot_start_ends_with_code_2_in_one_line(tmp_path: Path, mode: str) -> None:
    flags = [f"--mode={mode}", "--level_name=dmlab/demos/missing_map", f"--logdir={tmp_path}/run", "--level_cache="]
    options: Any = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run(
        [sys.executable, "experiment.py", *flags], env=os.environ | {"PYTHONPATH": str(STAND_IN)}, **options
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("opening each level once")]
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert "ERROR: Couldn't load maps/missing.bsp" in lines[0]
    assert not (tmp_path / "run").exists()
