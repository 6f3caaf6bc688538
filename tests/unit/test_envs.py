"""Environments: what index t holds, where episodes end, and level names. See the alignment in mlma/core/types.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv

from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.config import EnvironmentConfig
from mlma.core.record_layout import RecordLayout, trajectory_spec
from mlma.core.types import ActOutput, TimeStep
from mlma.envs.registry import make_env
from mlma.envs.suites.gym import fit_image
from tests.support.env_steps import random_actions, run

LENGTH = 3  # steps of an episode of Counting
START = 5  # its smallest action


class Counting(gymnasium.Env):
    """Observes [steps so far, a random number per episode, the last action]; the reward of step n is 10 n."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3, start=START)

    def __init__(self, truncates: bool = False) -> None:
        self._truncates = truncates

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._count, self._episode_id = 0, self.np_random.integers(1_000_000)
        return self._observation(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._count += 1
        over = self._count == LENGTH
        return self._observation(action), 10.0 * self._count, over and not self._truncates, over and self._truncates, {}

    def _observation(self, action: int) -> Any:
        return np.array([self._count, self._episode_id, action], np.float32)


@pytest.fixture(autouse=True)
def counting_levels() -> Iterator[None]:
    """Registers Counting in gymnasium for one test."""

    def counting(**kwargs: Any) -> gymnasium.Env:
        return Counting(**kwargs)

    gymnasium.register("Counting-v0", counting)
    gymnasium.register("CountingTruncated-v0", counting, kwargs={"truncates": True})
    yield
    for name in ("Counting-v0", "CountingTruncated-v0"):
        del gymnasium.registry[name]


@pytest.mark.parametrize(("level", "discount"), [("Counting-v0", 0.0), ("CountingTruncated-v0", 1.0)])
def test_index_t_holds_what_arrived_and_a_new_episode_starts_after_the_end(level: str, discount: float) -> None:
    env = make_env(level, 2, 7, EnvironmentConfig())
    assert env.spec.num_actions == 3
    assert env.spec.observation == ((3,), "float32")
    actions = np.array([[1, 2], [2, 0], [0, 1], [2, 2], [1, 0]])
    steps = run(env, actions)
    nan = np.nan
    expected = {
        "reward": [0, 10, 20, 30, 0, 10],
        "discount": [1, 1, 1, discount, 1, 1],  # truncation does not end the return
        "is_first": [True, False, False, False, True, False],
        "episode_return": [nan, nan, nan, 60, nan, nan],
        "episode_frames": [0, 0, 0, LENGTH, 0, 0],
    }
    for field, values in expected.items():
        for e in range(2):
            np.testing.assert_array_equal(getattr(steps, field)[:, e], values, err_msg=field)
    np.testing.assert_array_equal(steps.observation[:, 0, 0], [0, 1, 2, 3, 0, 1])
    np.testing.assert_array_equal(steps.last_action[:, 0], [0, 1, 2, 0, 0, 1])  # 0 at the start of an episode
    np.testing.assert_array_equal(steps.last_action[:, 1], [0, 2, 0, 1, 0, 0])
    np.testing.assert_array_equal(steps.observation[1:4, :, 2], actions[:3] + START)


def test_time_steps_have_the_types_that_are_sent() -> None:
    dtypes = {
        "reward": "float32",
        "discount": "float32",
        "is_first": "bool",
        "last_action": "int32",
        "episode_return": "float32",
        "episode_frames": "int32",
    }
    for level in ("Counting-v0", "corridor", "catch", "PongNoFrameskip-v4"):
        env = make_env(level, 2, 7, EnvironmentConfig())
        for step in (env.reset(), env.step(np.zeros(2, np.int32))):
            assert {name: getattr(step, name).dtype.name for name in dtypes} == dtypes, level
            assert step.observation.shape == (2, *env.spec.observation.shape)
            assert step.observation.dtype.name == env.spec.observation.dtype
        env.close()


def episode_ids(level: str, seed: int) -> list[float]:
    """The random numbers of the first two episodes of three environments."""
    steps = run(make_env(level, 3, seed, EnvironmentConfig()), np.zeros((5, 3), int))
    return [*steps.observation[0, :, 1], *steps.observation[4, :, 1]]


def test_seeds_make_episodes_that_can_be_repeated_and_differ() -> None:
    first = episode_ids("Counting-v0", 7)
    assert first == episode_ids("Counting-v0", 7)
    assert len(set(first)) == len(first)
    assert not set(first) & set(episode_ids("Counting-v0", 1000))


def test_levels_with_unsupported_actions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PendulumEnv, "__init__", _init_with_text_actions)
    with pytest.raises(ValueError, match="--level_name=Pendulum-v1: has action space Text"):
        make_env("Pendulum-v1", 1, 0, EnvironmentConfig())


def _init_with_text_actions(self: Any, **_: Any) -> None:
    self.screen = None
    self.observation_space, self.action_space = gymnasium.spaces.Box(0, 1, (2,)), gymnasium.spaces.Text(4)


@pytest.mark.parametrize(
    ("misspelled", "nearest"),
    [
        ("PnogNoFrameskip-v4", "PongNoFrameskip-v4"),
        ("atari_brekout", "atari_breakout"),
        ("ALE/Pnog-v5", "ALE/Pong-v5"),
        ("CartPol-v1", "CartPole-v1"),
        ("coridor", "corridor"),
        ("CARTPOLE-V1", "CartPole-v1"),
    ],
)
def test_an_unknown_level_is_answered_with_the_nearest(misspelled: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="no such level") as caught:
        make_env(misspelled, 1, 0, EnvironmentConfig())
    assert nearest in str(caught.value)
    assert misspelled in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("Pong", "atari_pong"),
        ("pong", "atari_pong"),
        ("ATARI_PONG", "atari_pong"),
        ("Pong-v7", "atari_pong"),
        ("SpaceInvaders", "atari_space_invaders"),
        ("space-invaders", "atari_space_invaders"),
        ("SpaceInvadersDeterministic-v9", "atari_space_invaders"),
    ],
)
def test_the_name_of_a_game_is_answered_with_its_atari_level_first(name: str, level: str) -> None:
    with pytest.raises(ValueError, match=f"nearest: {level}, ") as caught:
        make_env(name, 1, 0, EnvironmentConfig())
    assert "Pong-v4," not in str(caught.value).replace("NoFrameskip-v4,", "")


# -- Small levels with a known optimum


def test_the_corridor_has_the_return_of_the_book() -> None:
    env, rng = make_env("corridor", 400, 1, EnvironmentConfig()), np.random.default_rng(1)
    env.reset()
    returns: list[float] = []
    for _ in range(2000):
        step = env.step(rng.random(400) < 2 - np.sqrt(2))
        returns += step.episode_return[np.isfinite(step.episode_return)].tolist()
    assert np.mean(returns) == pytest.approx(-11.66, abs=0.2)


def test_the_shortest_way_through_the_corridor_is_right_left_right() -> None:
    steps = run(make_env("corridor", 1, 1, EnvironmentConfig()), [[1], [0], [1], [1], [1]])
    np.testing.assert_array_equal(steps.episode_return[:, 0], [np.nan, np.nan, np.nan, -3, np.nan, np.nan])
    np.testing.assert_array_equal(steps.is_first[:, 0], [True, False, False, False, True, False])
    np.testing.assert_array_equal(steps.discount[:, 0], [1, 1, 1, 0, 1, 1])
    np.testing.assert_array_equal(steps.reward[:, 0], [0, -1, -1, -1, 0, -1])


def test_following_the_ball_in_catch_returns_one_and_repeats_with_the_seed() -> None:
    def follow_ball() -> Any:
        env, returns = make_env("catch", 50, 3, EnvironmentConfig()), []
        step = env.reset()
        assert step.is_first.all()
        for _ in range(60):
            board = step.observation.reshape(50, 10, 5)
            ball, paddle = board[:, :9].sum(1).argmax(-1), board[:, 9].argmax(-1)
            step = env.step(1 + np.sign(ball - paddle))
            returns.append(step.episode_return)
        return np.stack(returns), step.observation

    (returns, board), (_, repeated) = follow_ball(), follow_ball()
    ended = returns[np.isfinite(returns)]
    assert len(ended) == 300
    assert (ended == 1.0).all()
    np.testing.assert_array_equal(board, repeated)


def test_catch_without_moving_mostly_misses() -> None:
    steps = run(make_env("catch", 200, 3, EnvironmentConfig()), np.ones((20, 200), int))
    ended = steps.episode_return[np.isfinite(steps.episode_return)]
    assert set(ended) == {-1.0, 1.0}
    assert -0.8 < ended.mean() < -0.4


# -- Trajectories


def test_step_0_of_a_trajectory_is_step_T_of_the_one_before_and_no_step_is_lost() -> None:
    env, unroll = make_env("Counting-v0", 2, 7, EnvironmentConfig()), 4
    state = (np.zeros((2, 1), np.float32),)
    layout = RecordLayout(trajectory_spec(env.spec, state, unroll))
    writer = TrajectoryWriter(layout, 2, unroll, task=9)
    steps = run(env, random_actions(env, 3 * unroll))
    sent = []
    for t in range(3 * unroll + 1):
        fields: list[Any] = [np.asarray(field)[t] for field in steps]
        step = TimeStep(*fields)
        output = ActOutput(np.array([t % 3, 2]), np.full((2, 3), t, np.float32), np.full(2, t, np.float32))
        state = (np.full((2, 1), t, np.float32),)
        if writer.add(step, output, state, weights_version=100 + t):
            sent.append(layout.view(layout.from_bytes(b"".join(writer.messages()))))
            assert not writer.add(step, output, state, weights_version=100 + t)
    assert len(sent) == 3
    for n, trajectory in enumerate(sent):
        window = slice(n * unroll, (n + 1) * unroll + 1)
        for field, expected in zip(trajectory.timesteps[:-1], steps[:-1], strict=True):
            np.testing.assert_array_equal(field.swapaxes(0, 1), expected[window])  # [E, T+1] -> [T+1, E]
        np.testing.assert_array_equal(trajectory.act_outputs.value[0], np.arange(3 * unroll + 1)[window])
        np.testing.assert_array_equal(trajectory.agent_state[0][:, 0], n * unroll)  # the state before step 0
        np.testing.assert_array_equal(trajectory.weights_version, 100 + n * unroll)
        np.testing.assert_array_equal(trajectory.actor_id, 9)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size", [(128, 72), (80, 60), (40, 30), (32, 24), (160, 72)])
def test_no_pixel_of_an_image_is_skipped_when_it_shrinks(size: tuple[int, int], grey: bool) -> None:
    """Lines of one pixel, black and white in turn, become grey, and never black or white alone."""
    width, height = size
    image = np.zeros((120, 160, 3), np.uint8)
    image[::2] = 255
    small = fit_image(image, size, grey)
    assert (small.shape, small.dtype) == ((height, width, 1 if grey else 3), np.uint8)
    assert abs(small.mean() - 127.5) < 3, "as bright as before"
    if 120 % (2 * height) == 0:
        assert abs(small.astype(float) - 127.5).max() < 3, "each row is the mean of black and white ones"
