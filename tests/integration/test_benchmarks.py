"""Runs every benchmark with settings so small that its figures mean nothing: what is tested is that it works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL_RUN = ["--", "--level_name=catch", "--envs_per_actor=4", "--batch_size=4", "--unroll_length=5"]
SHORT = ["--seconds=1", "--warm_up=4"]
BENCHMARKS = {
    "roofline": [*SHORT, "--rounds=1", "--agents=MLPAgent", *SMALL_RUN],
    "scaling": [*SHORT, "--actors=1", "--out={tmp_path}", *SMALL_RUN],
    "inference": [*SHORT, "--rounds=1", "--envs=2", *SMALL_RUN],
    "ingest": [*SHORT, "--actors=2", "--agents=MLPAgent", *SMALL_RUN],
    "start": ["--rounds=1", *SMALL_RUN],
    "channels": ["--megabytes=20", "--rounds=1"],
    "replay": ["--sizes=1e4", "--algorithms=r2d2", "--parts=replay", "--level_name=PongNoFrameskip-v4"],
}


def tables(command: list[str]) -> list[list[str]]:
    """The cells of the Markdown rows that a benchmark prints, without the rules."""
    root = {f"{name}_ALLOW_RUN_AS_ROOT{end}": "1" for name in ("OMPI", "PRTE") for end in ("", "_CONFIRM")}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **root}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.strip("| ").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in lines if set("".join(cells)) - set("-: ")]


@pytest.mark.commands
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_prints_a_table_with_a_row_for_each_measurement(name: str, tmp_path: Path) -> None:
    flags = [flag.format(tmp_path=tmp_path) for flag in BENCHMARKS[name]]
    table = tables([sys.executable, "-m", f"benchmarks.{name}", *flags])
    assert len(table) >= 2, table
    assert all(any(character.isdigit() for character in cell) for row in table[1:2] for cell in row[-2:]), table


def test_the_benchmark_of_the_allreduce_runs_under_mpirun() -> None:
    pytest.importorskip("horovod", reason="learners need Horovod: make install")
    mpirun = [str(Path(sys.executable).parent / "mpirun"), "--oversubscribe", "-np", "2", sys.executable]
    table = tables([*mpirun, "-m", "benchmarks.allreduce", "--times=3", "--agents=MLPAgent", *SMALL_RUN])
    assert len(table) == 2, table
    assert float(table[1][3]) > 0, table


@pytest.mark.parametrize("name", [*BENCHMARKS, "allreduce"])
def test_a_wrong_flag_of_a_benchmark_is_one_line(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--", "--batch_size=many"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if name in ("replay", "channels"):  # have no flags of experiment.py
        assert done.returncode == 2
        return
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "--batch_size" in done.stderr and "many" in done.stderr
