"""--deterministic: the same numbers twice, and from one learner and two, as long as rounding lets them."""

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

TURNS = [*SMALL, "--deterministic", "--report_every_steps=20", "--sample_reuse=2"]
GAMES = ("frames", "learner_step", "episodes", "lag/mean")
LEARNED = ("loss/total", "loss/value", "gradient_norm", "policy/entropy", "value/mean")


def play(folder: Path, name: str, *more: str) -> tuple[bytes, str]:
    """curve.csv, and the checksum of the last weights."""
    logdir = folder / name
    with Process(folder, f"{name}-console", *TURNS, f"--logdir={logdir}", *more) as run:
        assert run.wait(200) == 0, run.text()
        (checksum,) = set(re.findall(r"weights (\w{8})", run.text()))
    return (logdir / "curve.csv").read_bytes(), checksum


def table(text: bytes) -> list[dict[str, float]]:
    return [{k: float(v or "nan") for k, v in row.items()} for row in csv.DictReader(text.decode().splitlines())]


def test_the_same_flags_give_the_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    flags = ["--num_actors=1", "--total_environment_frames=8000"]
    one, two = play(tmp_path, "one", *flags), play(tmp_path, "two", *flags)
    assert one == two
    rows = table(one[0])
    assert len(rows) == 2 * 100 // 20  # 80 steps of play in a sample, each of which is trained on twice
    assert np.isfinite([row[name] for row in rows for name in (*GAMES, *LEARNED, "return/mean")]).all()
    assert rows[-1]["lag/mean"] <= 5, "learner and actor take turns; what is trained on again is four samples old"
    assert play(tmp_path, "other", *flags, "--seed=2")[1] != one[1]


@pytest.mark.skipif(not (Path(sys.executable).parent / "mpirun").exists(), reason="no mpirun: make install")
def test_one_learner_with_two_actors_is_two_learners_with_one_each(tmp_path: Path) -> None:
    frames = "--total_environment_frames=6400"
    alone = table(play(tmp_path, "alone", frames, "--num_actors=2", "--batch_size=16")[0])
    both = table(play(tmp_path, "both", frames, "--num_actors=1", "--batch_size=8", "--num_learners=2")[0])
    assert len(alone) == len(both) >= 3
    for one, two in zip(alone, both, strict=True):
        assert [one[name] for name in GAMES] == [two[name] for name in GAMES]
        for name in LEARNED:  # sums in another order; one action drawn otherwise would change the third digit
            assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-7), name


def test_what_cannot_take_turns_is_refused() -> None:
    spec = EnvSpec(ArraySpec((50,), "float32"), 3, 1)
    with pytest.raises(ValueError, match="batch_size=7 must divide the 16 trajectories"):
        resolve(parse(["--deterministic", "--level_name=catch", "--batch_size=7"]), spec, cores=2)
    with pytest.raises(ValueError, match="allowed: impala"):
        resolve(parse(["--deterministic", "--level_name=catch", "--algorithm=apex"]), spec, cores=2)


def test_what_is_lost_ends_a_run_that_was_to_be_like_another(tmp_path: Path) -> None:
    flags = ["--level_name=tests.support.levels:Crashing-v0", "--env_processes=2", "--envs_per_actor=4", "--num_actors=1",
             "--batch_size=4", "--unroll_length=10", "--report_every_steps=2", "--width=36", "--height=36"]  # fmt: skip
    crash = {"CRASH_AT": "60", "CRASH_ONCE": str(tmp_path / "crashed")}
    with Process(tmp_path, "run", *flags, "--deterministic", f"--logdir={tmp_path}/run", env=crash) as run:
        assert run.wait(200) == 1
        assert "an environment was replaced, and what it had played is lost" in run.text()
        assert "Irreproducible: --deterministic: actor 0 came again" in run.text()
    assert list((tmp_path / "run" / "checkpoints").glob("*.npz")), "the weights so far are kept"
