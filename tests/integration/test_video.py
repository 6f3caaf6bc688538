"""Videos show the games that were played: the same, played again; and their files can be opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mlma.core.config import Config
from mlma.envs.registry import make_env, make_for_video
from mlma.evaluation.evaluation import EpisodeRecording
from mlma.evaluation.video import FRAME_HEIGHT, GIF_BYTES, GIF_HEIGHT, choose_episodes, render_episodes


def play(config: Config, episodes: int, seed: int) -> tuple[EpisodeRecording, list[float]]:
    """Random games, as an evaluation keeps them."""
    env = make_env(config.environment.level_name, episodes, seed, config.environment, evaluation=True)
    rng = np.random.default_rng(0)
    tape, returns = EpisodeRecording([], [], []), np.full(episodes, np.nan)
    env.reset()
    while np.isnan(returns).any():
        action = rng.integers(env.spec.num_actions, size=episodes).astype(np.int32)
        tape.actions.append(action)
        tape.logits.append(rng.normal(size=(episodes, env.spec.num_actions)).astype(np.float32))
        tape.values.append(rng.normal(size=episodes).astype(np.float32))
        ended = env.step(action).episode_return
        returns = np.where(np.isnan(returns), ended, returns)
    env.close()
    return tape, returns.tolist()


@pytest.mark.parametrize("level", ["catch", "corridor", "Acrobot-v1"])
def test_the_chosen_episodes_are_played_again_and_written(level: str, tmp_path: Path) -> None:
    config = Config.from_flags(level_name=level, num_action_repeats=4)
    tape, returns = play(config, 4, seed=3)
    paths = render_episodes(config, 3, tape, returns, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.{kind}" for name in ("best", "median", "worst") for kind in ("gif", "mp4") if tmp_path / f"{name}.mp4" in paths
    )
    best = cv2.VideoCapture(str(tmp_path / "best.mp4"))
    assert best.get(cv2.CAP_PROP_FPS) == 15
    assert best.get(cv2.CAP_PROP_FRAME_HEIGHT) == FRAME_HEIGHT
    assert 0 < best.get(cv2.CAP_PROP_FRAME_COUNT) <= len(tape.actions)
    assert best.read()[1].std() > 5  # something is to be seen
    gif = Image.open(tmp_path / "best.gif")
    assert gif.height == GIF_HEIGHT
    assert (tmp_path / "best.gif").stat().st_size <= GIF_BYTES


def test_pictures_of_atari_are_those_of_the_games_that_were_played() -> None:
    config = Config.from_flags(level_name="ALE/Breakout-v5")  # sticky actions: the random numbers are the same, too
    played = make_env(config.environment.level_name, 2, 7, config.environment, evaluation=True)
    filmed = make_for_video(config.environment.level_name, 2, 7, config.environment)
    played.reset(), filmed.reset()
    rng = np.random.default_rng(1)
    rewards = []
    for _ in range(300):
        action = rng.integers(4, size=2).astype(np.int32)
        one, two = played.step(action), filmed.step(action)
        np.testing.assert_array_equal(one.reward, two.reward)
        np.testing.assert_array_equal(one.episode_return, two.episode_return)
        rewards.append(one.reward)
    assert np.sum(rewards) > 0
    assert filmed.render(1).shape == (210, 160, 3)  # type: ignore[attr-defined]
    assert filmed.spec.action_names == ("NOOP", "FIRE", "RIGHT", "LEFT")
    played.close()
    filmed.close()


def test_episodes_that_cannot_be_repeated_give_no_video(tmp_path: Path, log_lines: Callable[[], list[str]]) -> None:
    config = Config.from_flags(level_name="catch")
    tape, returns = play(config, 3, seed=3)
    assert render_episodes(config, 3, tape, [-value for value in returns], tmp_path) == []
    assert "is not repeatable" in log_lines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_best_median_and_worst() -> None:
    assert choose_episodes([3.0, -1.0, 7.0, 5.0, 4.0]) == {"best": 2, "median": 4, "worst": 1}
