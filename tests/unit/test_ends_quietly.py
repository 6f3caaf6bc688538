"""Help into a pipe that closes, a full disk, and Ctrl-C while modules are imported: no traceback, no line too many."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlma.core.config import flag_table, help_text
from tests.support.runs import ROOT

EXPERIMENT, FRONTEND = "experiment.py", "run_experiment_mm_raw.py"


@pytest.mark.parametrize("words", [[EXPERIMENT, "--help=all"], [EXPERIMENT, "--level_name=help"], [FRONTEND, "--help"]])
def test_help_into_a_pipe_that_nobody_reads_says_nothing(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_that_cannot_be_written_is_an_error_of_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, EXPERIMENT, "--preset=help"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "standard output failed: No space left on device\n")


@pytest.mark.parametrize("script", [EXPERIMENT, FRONTEND])
def test_ctrl_c_during_the_imports_prints_nothing(script: str, tmp_path: Path) -> None:
    slow = "import time; print('importing', flush=True); time.sleep(60)"
    (tmp_path / "numpy.py").write_text(slow)  # takes the place of a module that the script needs at once
    (tmp_path / "paramiko.py").write_text(slow)
    run = subprocess.Popen(
        [sys.executable, script, "--level_name=catch"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout and run.stdout.readline() == "importing\n"
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert (run.returncode, errors) == (-signal.SIGINT, "")


def test_the_short_help_has_the_usual_flags_and_names_the_long_one() -> None:
    short = help_text("")
    assert len(short.splitlines()) < 50 and max(map(len, short.splitlines())) <= 120
    assert "--level_name=" in short and "--initializers" not in short
    assert f"--help=all: all {len(flag_table())} flags" in short


def test_the_long_help_has_every_flag_and_a_word_selects_some() -> None:
    assert all(f"  --{name}=" in help_text("all") for name in flag_table())
    some = help_text("learning-rate")
    assert "--end_learning_rate=" in some and "--seed=" not in some
    with pytest.raises(ValueError, match="--help=nonsense: no such flag"):
        help_text("nonsense")
