"""Videos repeat the recorded episodes exactly, and their files can be opened."""

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


def record_evaluation(config: Config, episodes: int, seed: int) -> tuple[EpisodeRecording, list[float]]:
    """Episodes with random actions, recorded like an evaluation, and their returns."""
    env = make_env(config.environment.level_name, episodes, seed, config.environment, evaluation=True)
    rng = np.random.default_rng(0)
    recording, returns = EpisodeRecording([], [], []), np.full(episodes, np.nan)
    env.reset()
    while np.isnan(returns).any():
        action = rng.integers(env.spec.num_actions, size=episodes).astype(np.int32)
        recording.actions.append(action)
        recording.logits.append(rng.normal(size=(episodes, env.spec.num_actions)).astype(np.float32))
        recording.values.append(rng.normal(size=episodes).astype(np.float32))
        ended = env.step(action).episode_return
        returns = np.where(np.isnan(returns), ended, returns)
    env.close()
    return recording, returns.tolist()


@pytest.mark.parametrize("level", ["catch", "corridor", "Acrobot-v1"])
def test_the_chosen_episodes_are_repeated_and_written(level: str, tmp_path: Path) -> None:
    config = Config.from_flags(level_name=level, num_action_repeats=4)
    recording, returns = record_evaluation(config, 4, seed=3)
    paths = render_episodes(config, 3, recording, returns, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.{kind}"
        for name in ("best", "median", "worst")
        for kind in ("gif", "mp4")
        if tmp_path / f"{name}.mp4" in paths
    )
    best = cv2.VideoCapture(str(tmp_path / "best.mp4"))
    assert best.get(cv2.CAP_PROP_FPS) == 15
    assert best.get(cv2.CAP_PROP_FRAME_HEIGHT) == FRAME_HEIGHT
    assert 0 < best.get(cv2.CAP_PROP_FRAME_COUNT) <= len(recording.actions)
    assert best.read()[1].std() > 5  # not blank
    gif = Image.open(tmp_path / "best.gif")
    assert gif.height == GIF_HEIGHT
    assert (tmp_path / "best.gif").stat().st_size <= GIF_BYTES


def test_videos_of_atari_repeat_the_evaluation() -> None:
    # This level has sticky actions, whose random numbers must be equal too.
    config = Config.from_flags(level_name="ALE/Breakout-v5")
    evaluated = make_env(config.environment.level_name, 2, 7, config.environment, evaluation=True)
    repeated = make_for_video(config.environment.level_name, 2, 7, config.environment)
    evaluated.reset(), repeated.reset()
    rng = np.random.default_rng(1)
    rewards = []
    for _ in range(300):
        action = rng.integers(4, size=2).astype(np.int32)
        expected, actual = evaluated.step(action), repeated.step(action)
        np.testing.assert_array_equal(expected.reward, actual.reward)
        np.testing.assert_array_equal(expected.episode_return, actual.episode_return)
        rewards.append(expected.reward)
    assert np.sum(rewards) > 0
    assert repeated.render(1).shape == (210, 160, 3)  # type: ignore[attr-defined]
    assert repeated.spec.action_names == ("NOOP", "FIRE", "RIGHT", "LEFT")
    evaluated.close()
    repeated.close()


def test_episodes_that_cannot_be_repeated_give_no_video(tmp_path: Path, log_lines: Callable[[], list[str]]) -> None:
    config = Config.from_flags(level_name="catch")
    recording, returns = record_evaluation(config, 3, seed=3)
    assert render_episodes(config, 3, recording, [-value for value in returns], tmp_path) == []
    assert "is not repeatable" in log_lines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_best_median_and_worst() -> None:
    assert choose_episodes([3.0, -1.0, 7.0, 5.0, 4.0]) == {"best": 2, "median": 4, "worst": 1}
