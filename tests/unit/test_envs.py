"""Environments: what index t holds, where episodes end, and level names. See the alignment in mlma/core/types.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.config import Config, EnvironmentConfig
from mlma.core.record_layout import RecordLayout, trajectory_spec
from mlma.core.types import ActOutput, TimeStep, VectorEnv
from mlma.envs.registry import env_spec, make_env

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


def run(env: VectorEnv, actions: Any) -> TimeStep:
    """Time steps [T+1, E, ...]: the reset, then one step per row of `actions` [T, E]. Closes `env`."""
    steps = [env.reset(), *(env.step(action) for action in actions)]
    env.close()
    columns: list[Any] = [
        np.stack([np.asarray(field).copy() for field in fields]) for fields in zip(*steps, strict=True)
    ]
    return TimeStep(*columns)


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


def test_levels_with_unsupported_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="--level_name=Pendulum-v1: has action space Box"):
        make_env("Pendulum-v1", 1, 0, EnvironmentConfig())


@pytest.mark.parametrize(
    ("misspelled", "nearest"),
    [
        ("PnogNoFrameskip-v4", "PongNoFrameskip-v4"),
        ("atari_brekout", "atari_breakout"),
        ("ALE/Pnog-v5", "ALE/Pong-v5"),
        ("CartPol-v1", "CartPole-v1"),
        ("coridor", "corridor"),
    ],
)
def test_an_unknown_level_is_answered_with_the_nearest(misspelled: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="no such level") as caught:
        make_env(misspelled, 1, 0, EnvironmentConfig())
    assert nearest in str(caught.value)
    assert misspelled in str(caught.value)
    assert "\n" not in str(caught.value)


# -- Atari


def random_actions(env: VectorEnv, steps: int, seed: int = 3) -> Any:
    """int [T, E]."""
    return np.random.default_rng(seed).integers(env.spec.num_actions, size=(steps, env.num_envs))


def test_a_life_loss_ends_the_return_but_not_the_episode() -> None:
    """The reference is evaluation with the same actions, in which no return ends before its episode does."""
    level = "BreakoutNoFrameskip-v4"
    training, evaluation = (make_env(level, 3, 5, EnvironmentConfig(), evaluation=e) for e in (False, True))
    actions = random_actions(training, 500)
    steps, reference = run(training, actions), run(evaluation, actions)
    np.testing.assert_array_equal(steps.observation, reference.observation)
    np.testing.assert_array_equal(steps.is_first, reference.is_first)
    np.testing.assert_array_equal(steps.reward, reference.reward)
    num_episodes = reference.is_first[1:].sum()
    assert num_episodes >= 3
    np.testing.assert_array_equal(reference.discount[:-1] == 0, reference.is_first[1:])  # only at ends of episodes
    assert (steps.discount[:-1][reference.is_first[1:]] == 0).all()  # also in training
    assert (steps.discount[:-1] == 0).sum() >= 5 * num_episodes  # and at each of the five lives
    np.testing.assert_array_equal(np.isfinite(steps.episode_return[:-1]), reference.is_first[1:])


def test_without_the_flag_a_life_loss_ends_nothing() -> None:
    env = make_env("BreakoutNoFrameskip-v4", 2, 5, EnvironmentConfig(life_loss_ends_return=False))
    steps = run(env, random_actions(env, 150))
    np.testing.assert_array_equal(steps.discount[:-1] == 0, steps.is_first[1:])


def test_a_game_that_keeps_its_lives_ends_when_the_emulator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some games report a life for ever, as Adventure does; here Breakout, in which all five are counted otherwise."""
    env = make_env("BreakoutNoFrameskip-v4", 2, 5, EnvironmentConfig())
    emulator: Any = env._env  # type: ignore[attr-defined]
    step = emulator.step

    def with_lives_for_ever(action: Any) -> Any:
        *results, info = step(action)
        return *results, info | {"lives": np.full(2, 5)}

    monkeypatch.setattr(emulator, "step", with_lives_for_ever)
    steps = run(env, random_actions(env, 300))
    assert steps.is_first[1:].sum() >= 2
    np.testing.assert_array_equal(steps.discount[:-1] == 0, steps.is_first[1:])
    np.testing.assert_array_equal(np.isfinite(steps.episode_return[:-1]), steps.is_first[1:])


def test_fire_is_pressed_for_the_agent_only_with_the_flag() -> None:
    """In Breakout the ball appears once FIRE was pressed; without it, nothing moves under no-ops."""

    def still(fire_reset: bool) -> bool:
        env = make_env("BreakoutNoFrameskip-v4", 1, 5, EnvironmentConfig(noop_max=0, fire_reset=fire_reset))
        frames = run(env, np.zeros((40, 1), int)).observation
        return bool((frames == frames[:1]).all())

    assert still(fire_reset=False)
    assert not still(fire_reset=True)


def test_rewards_are_raw_and_the_episode_return_is_their_sum() -> None:
    env = make_env("SpaceInvadersNoFrameskip-v4", 2, 5, EnvironmentConfig())
    steps = run(env, random_actions(env, 600))
    assert steps.reward.max() >= 5  # an invader gives 5 to 30
    ends = np.argwhere(np.isfinite(steps.episode_return))
    assert len(ends) >= 2
    start = {0: 0, 1: 0}  # environment -> first step of its episode
    for t, e in ends:
        assert steps.episode_return[t, e] == steps.reward[start[e] : t + 1, e].sum()
        assert steps.episode_frames[t, e] == 4 * (t - start[e])
        assert steps.reward[start[e], e] == 0
        assert steps.is_first[start[e], e]
        start[e] = t + 1


def test_atari_seeds_make_episodes_that_can_be_repeated_and_differ() -> None:
    def frames(seed: int) -> Any:
        level = "AssaultNoFrameskip-v4"  # which moves by itself from the start
        return run(make_env(level, 12, seed, EnvironmentConfig()), np.ones((1, 12), int)).observation

    first = frames(5)
    np.testing.assert_array_equal(first, frames(5))
    assert not np.array_equal(first, frames(500))
    assert len({env.tobytes() for env in first.swapaxes(0, 1)}) > 5  # of 30 possible starts: 0 to 29 no-ops


def stay_equal(level: str, config: Config) -> bool:
    """Whether environments with different seeds stay equal under the same actions; only sticky actions prevent it."""
    actions = np.random.default_rng(1).integers(6, size=(120, 1)).repeat(3, axis=1)
    observation = run(make_env(level, 3, 5, config.environment), actions).observation
    return bool((observation == observation[:, :1]).all())


def test_only_v5_names_have_sticky_actions_unless_the_flag_is_set() -> None:
    for level in ("PongNoFrameskip-v4", "atari_pong"):
        assert stay_equal(level, Config.from_flags(noop_max=0))
    assert not stay_equal("ALE/Pong-v5", Config.from_flags(noop_max=0))
    assert stay_equal("ALE/Pong-v5", Config.from_flags(noop_max=0, sticky_actions=0.0))
    assert not stay_equal("atari_pong", Config.from_flags(noop_max=0, sticky_actions=0.25))


def test_every_spelling_of_a_name_is_the_same_game() -> None:
    for first, second in (("atari_space_invaders", "SpaceInvadersNoFrameskip-v4"), ("atari_pong", "ALE/Pong-v5")):
        specs = [env_spec(EnvironmentConfig(level_name=name)) for name in (first, second)]
        assert specs[0] == specs[1]
        assert specs[0].observation == ((84, 84, 1), "uint8")
        assert specs[0].num_actions == 6
    full = env_spec(
        EnvironmentConfig(level_name="atari_pong", full_action_space=True, width=60, height=40, num_action_repeats=2)
    )
    assert full[:3] == (((40, 60, 1), "uint8"), 18, 2)


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
