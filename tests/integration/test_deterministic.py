"""--deterministic: the same numbers twice, and with one learner and two up to rounding."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from mlma.core.config import parse
from mlma.core.presets.resolve import resolve
from mlma.core.types import ArraySpec, EnvSpec
from tests.support.runs import SMALL, Process

LOCKSTEP = [*SMALL, "--deterministic", "--report_every_steps=20", "--sample_reuse=2"]
EXACT_COLUMNS = ("frames", "learner_step", "episodes", "lag/mean")
ROUNDED_COLUMNS = ("loss/total", "loss/value", "gradient_norm", "policy/entropy", "value/mean")


def train(folder: Path, name: str, *flags: str) -> tuple[bytes, str]:
    """Trains; curve.csv and the checksum of the last weights."""
    logdir = folder / name
    with Process(folder, f"{name}-console", *LOCKSTEP, f"--logdir={logdir}", *flags) as run:
        assert run.wait(200) == 0, run.text()
        (checksum,) = set(re.findall(r"weights (\w{8})", run.text()))
    return (logdir / "curve.csv").read_bytes(), checksum


def table(text: bytes) -> list[dict[str, float]]:
    """The rows of a CSV."""
    return [{k: float(v or "nan") for k, v in row.items()} for row in csv.DictReader(text.decode().splitlines())]


def test_the_same_flags_give_the_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    flags = ["--num_actors=1", "--total_environment_frames=8000"]
    one, two = train(tmp_path, "one", *flags), train(tmp_path, "two", *flags)
    assert one == two
    rows = table(one[0])
    assert len(rows) == 2 * 100 // 20  # a sample has 80 environment steps, each of which is used twice
    assert np.isfinite([row[name] for row in rows for name in (*EXACT_COLUMNS, *ROUNDED_COLUMNS, "return/mean")]).all()
    assert rows[-1]["lag/mean"] <= 5, "learner and actor take turns; a reused sample is four samples old"
    assert train(tmp_path, "other", *flags, "--seed=2")[1] != one[1]


@pytest.mark.skipif(not (Path(sys.executable).parent / "mpirun").exists(), reason="no mpirun: make install")
def test_one_learner_with_two_actors_is_two_learners_with_one_each(tmp_path: Path) -> None:
    frames = "--total_environment_frames=6400"
    single = table(train(tmp_path, "alone", frames, "--num_actors=2", "--batch_size=16")[0])
    two_learners = table(train(tmp_path, "both", frames, "--num_actors=1", "--batch_size=8", "--num_learners=2")[0])
    assert len(single) == len(two_learners) >= 3
    for one, two in zip(single, two_learners, strict=True):
        assert [one[name] for name in EXACT_COLUMNS] == [two[name] for name in EXACT_COLUMNS]
        for name in ROUNDED_COLUMNS:  # sums in another order; a single different action would change the third digit
            assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-7), name


def test_flags_that_rule_out_lockstep_are_refused() -> None:
    spec = EnvSpec(ArraySpec((50,), "float32"), 3, 1)
    with pytest.raises(ValueError, match="batch_size=7 must divide the 16 trajectories"):
        resolve(parse(["--deterministic", "--level_name=catch", "--batch_size=7"]), spec, cores=2)
    with pytest.raises(ValueError, match="allowed: impala"):
        resolve(parse(["--deterministic", "--level_name=catch", "--algorithm=apex"]), spec, cores=2)


def test_lost_data_ends_a_deterministic_run(tmp_path: Path) -> None:
    flags = [
        "--level_name=tests.support.levels:Crashing-v0", "--env_processes=2", "--envs_per_actor=4",
        "--num_actors=1", "--batch_size=4", "--unroll_length=10", "--report_every_steps=2", "--width=36", "--height=36",
    ]  # fmt: skip
    crash = {"CRASH_AT": "60", "CRASH_ONCE": str(tmp_path / "crashed")}
    with Process(tmp_path, "run", *flags, "--deterministic", f"--logdir={tmp_path}/run", env=crash) as run:
        assert run.wait(200) == 1
        assert "an environment was replaced, and its current trajectory is lost" in run.text()
        assert "NotReproducibleError: --deterministic: actor 0 connected again" in run.text()
    assert list((tmp_path / "run" / "checkpoints").glob("*.npz")), "the weights so far are saved"
