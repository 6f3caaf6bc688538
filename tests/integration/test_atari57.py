"""Every game of Atari-57, and IMPALA on all of them at once: `make test-levels`, which takes minutes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlma.core.config import EnvironmentConfig
from mlma.envs.reference_scores import score_table, table_key
from mlma.envs.registry import level_names, make_env
from tests.support.runs import Process, rows

pytestmark = pytest.mark.levels
GAMES = level_names("atari57")


def test_the_set_has_the_games_of_the_score_table() -> None:
    assert {table_key(name) for name in GAMES} == set(score_table("atari57"))


@pytest.mark.parametrize("game", GAMES)
def test_every_game_resets_and_steps_a_thousand_times(game: str) -> None:
    env = make_env(game, 4, 1, EnvironmentConfig())
    assert env.spec.observation == ((84, 84, 1), "uint8")
    rng, changed = np.random.default_rng(1), np.zeros(4, bool)
    first = env.reset().observation
    for _ in range(250):  # with four environments
        step = env.step(rng.integers(env.spec.num_actions, size=4))
        assert step.observation.shape == (4, 84, 84, 1)
        assert np.isfinite(step.reward).all()
        changed |= (step.observation != first).any(axis=(1, 2, 3))
    env.close()
    assert changed.all()


@pytest.mark.timeout(1800)  # until episodes of thirty games have ended
def test_impala_learns_from_all_games_at_once_and_reports_each(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    small = [
        "--level_name=atari57",
        "--batch_size=8",
        "--unroll_length=20",
        "--num_actors=2",
        "--report_every_seconds=2",
    ]
    small += [f"--logdir={logdir}", "--sample_reuse=1", "--popart", "--total_environment_frames=2e6"]
    with Process(tmp_path, "run", *small) as run:
        run.expect("learner at", 120)
        games: set[str] = set()
        while not (len(games) >= 30 and rows(logdir)[-1]["learner_step"] >= 50):
            assert run.process.poll() is None, run.text()
            time.sleep(1)
            table = rows(logdir)
            games = {
                name for row in table for name in row if name.startswith("level_return/") and not np.isnan(row[name])
            }
        run.signal(2)
        assert run.wait() == 0
    last = rows(logdir)[-1]
    assert {"score/mean", "score/median", "score/capped"} <= set(last)
    (events,) = logdir.glob("events.out*")
    tags = EventAccumulator(str(events)).Reload().Tags()["tensors"]
    assert len([tag for tag in tags if tag.startswith("level_return/atari_")]) >= 30, json.dumps(tags)
