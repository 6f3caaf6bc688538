"""Levels with a known best return are solved: `make learn`. Takes minutes to hours; not part of the default tests."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import Process, rows

pytestmark = pytest.mark.learning


def train(tmp_path: Path, seconds: float, *flags: str) -> list[dict[str, float]]:
    """Trains to the end, within `seconds`; the rows of metrics.csv."""
    logdir = tmp_path / "run"
    with Process(tmp_path, "train", f"--logdir={logdir}", *flags) as run:
        assert run.wait(seconds) == 0, run.text()
    return rows(logdir)


def last_fifth(table: list[dict[str, float]], name: str) -> float:
    """The average of `name` over the last fifth of the frames."""
    late = [row[name] for row in table if row["frames"] > 0.8 * table[-1]["frames"]]
    return float(np.nanmean(late))


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_the_corridor_is_left_with_the_best_stochastic_policy(tmp_path: Path, seed: int) -> None:
    table = train(
        tmp_path,
        180,
        "--level_name=corridor",
        "--total_environment_frames=2e6",
        "--report_every_seconds=1",
        f"--seed={seed}",
    )
    assert abs(last_fifth(table, "policy/p_action_1") - (2 - 2**0.5)) < 0.03
    assert abs(last_fifth(table, "return/mean") + 11.7) < 0.5


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("level", "frames", "goal"), [("catch", 1e6, 0.95), ("CartPole-v1", 2e6, 475)])
def test_small_levels_are_solved(tmp_path: Path, level: str, frames: float, goal: float, seed: int) -> None:
    table = train(tmp_path, 900, f"--level_name={level}", f"--total_environment_frames={frames}", f"--seed={seed}")
    assert table[-1]["return/mean"] >= goal


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("algorithm", "level", "goal"),
    [("apex", "catch", 0.95), ("apex", "CartPole-v1", 475), ("r2d2", "catch", 0.95), ("r2d2", "tmaze", 0.95)],
)
def test_small_levels_are_solved_by_q_learning(
    tmp_path: Path, algorithm: str, level: str, goal: float, seed: int
) -> None:
    table = train(tmp_path, 1200, f"--algorithm={algorithm}", f"--level_name={level}", f"--seed={seed}")
    assert table[-1]["return/greedy"] >= goal
    with Process(
        tmp_path, "test", "--mode=test", f"--config={tmp_path}/run/config.json", "--test_num_episodes=100"
    ) as run:
        assert run.wait(600) == 0, run.text()
        match = re.search(r"mean (\S+)", run.text())
        assert match and float(match[1]) >= goal


@pytest.mark.parametrize(("algorithm", "agent_name"), [("impala", "MLPAgent"), ("apex", "MLPAgent")])
def test_without_an_lstm_the_t_maze_stays_a_coin_toss(tmp_path: Path, algorithm: str, agent_name: str) -> None:
    table = train(tmp_path, 900, "--level_name=tmaze", f"--algorithm={algorithm}", f"--agent_name={agent_name}")
    assert last_fifth(table, "return/mean") < 0.25


def test_pong_is_solved_in_training_and_evaluation(tmp_path: Path) -> None:
    table = train(tmp_path, 4 * 3600)
    assert table[-1]["return/mean"] >= 18
    with Process(
        tmp_path, "test", "--mode=test", f"--config={tmp_path}/run/config.json", "--test_num_episodes=20"
    ) as run:
        assert run.wait(600) == 0, run.text()
        match = re.search(r"mean (\S+)", run.text())
        assert match and float(match[1]) >= 19


@pytest.mark.parametrize(("level", "goal"), [("doom_basic", 70), ("doom_health_gathering", 1500)])
def test_small_levels_of_vizdoom_are_solved(tmp_path: Path, level: str, goal: float) -> None:
    pytest.importorskip("vizdoom", reason="make install-vizdoom")
    table = train(tmp_path, 900, f"--level_name={level}", "--total_environment_frames=1.5e6")
    assert table[-1]["return/mean"] >= goal
