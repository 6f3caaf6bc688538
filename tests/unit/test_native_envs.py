"""A level's own vector environment trains like its single environments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from mlma.core.config import EnvironmentConfig
from mlma.envs.failures import EnvironmentFailedError
from mlma.envs.registry import make_env
from mlma.envs.vector.native import NativeVectorEnv
from mlma.envs.vector.sequential import SyncVectorEnv
from tests.support.env_steps import run

LENGTH = 3  # steps of an episode
SPACES = {
    "listed": spaces.Discrete(3, start=5),
    "buttons": spaces.MultiBinary(2),
    "real": spaces.Box(-2.0, 2.0, (2,), np.float32),
}


class Adding(gymnasium.Env):
    """Observes [steps so far, the sum of the last action] as a matrix; the reward of step n is 10 n."""

    observation_space = spaces.Box(-np.inf, np.inf, (2, 1), np.float64)

    def __init__(self, actions: str = "listed", truncates: bool = False, breaks: str = "") -> None:
        self.action_space, self._truncates = SPACES[actions], truncates

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._count = 0
        return np.zeros((2, 1)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._count += 1
        over = self._count == LENGTH
        observation = np.array([[self._count], [np.sum(action)]], np.float64)
        return observation, 10.0 * self._count, over and not self._truncates, over and self._truncates, {}


class ManyAdding(VectorEnv):
    """The same for E environments at once."""

    mode = AutoresetMode.NEXT_STEP

    def __init__(self, num_envs: int, actions: str = "listed", truncates: bool = False, breaks: str = "") -> None:
        single = Adding(actions, truncates)
        self.metadata = {"autoreset_mode": self.mode}
        self.num_envs, self._truncates, self._breaks = num_envs, truncates, breaks
        self.single_observation_space, self.single_action_space = single.observation_space, single.action_space

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.seed, self._count = seed, np.zeros(self.num_envs, int)
        return np.zeros((self.num_envs, 2, 1)), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self._breaks == "raises":
            raise KeyError("no such thing")
        restart = self._count == LENGTH
        self._count = np.where(restart, 0, self._count + 1)
        over = self._count == LENGTH
        sums = np.where(restart, 0, np.reshape(actions, (self.num_envs, -1)).sum(axis=1))
        observation = np.stack([self._count, sums], axis=1)[..., np.newaxis].astype(np.float64)
        nothing = np.zeros(self.num_envs, bool)
        terminated, truncated = (nothing, over) if self._truncates else (over, nothing)
        if self._breaks == "shape":
            observation = observation[:1]
        return observation, 10.0 * self._count, terminated, truncated, {}


class AtOnce(ManyAdding):
    """Restarts an episode in the step that ends it."""

    mode = AutoresetMode.SAME_STEP


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """Registers them for one test."""
    own: dict[str, Any] = {"Adding-v0": (Adding, ManyAdding), "AtOnce-v0": (Adding, AtOnce)}
    for name, (single, several) in own.items():
        gymnasium.register(name, single, vector_entry_point=several)
    yield
    for name in own:
        del gymnasium.registry[name]


def actions_of(env: Any, steps: int) -> Any:
    """Random actions [steps, E, ...]."""
    rng = np.random.default_rng(1)
    if env.spec.action_parts:
        return rng.normal(size=(steps, env.num_envs, 2)).astype(np.float32) * 2  # some are outside of their bounds
    return rng.integers(env.spec.num_actions, size=(steps, env.num_envs))


@pytest.mark.parametrize("actions", SPACES)
@pytest.mark.parametrize("truncates", ["true", "false"])
def test_time_steps_equal_those_of_single_environments(actions: str, truncates: str) -> None:
    arguments = f'{{"actions": "{actions}", "truncates": {truncates}}}'
    native = make_env("Adding-v0", 3, 7, EnvironmentConfig(env_args=arguments))
    single = make_env("Adding-v0", 3, 7, EnvironmentConfig(env_args=arguments, vectorized_env="off"))
    assert isinstance(native, NativeVectorEnv)
    assert isinstance(single, SyncVectorEnv)
    assert native.spec == single.spec
    steps, expected = (run(env, actions_of(env, 10)) for env in (native, single))
    assert np.isfinite(expected.episode_return).sum() == 2 * 3
    for name in expected._fields[:-1]:
        field, wanted = getattr(steps, name), getattr(expected, name)
        assert field.dtype == wanted.dtype, name
        np.testing.assert_allclose(field, wanted, rtol=1e-6, err_msg=name)


def test_the_environments_have_the_seed_of_the_actor_and_a_new_episode_after_a_reset() -> None:
    env: Any = make_env("Adding-v0", 3, 7, EnvironmentConfig())
    env.reset()
    assert env._env.seed == 7
    env.step(np.zeros(3, int))
    again = env.reset()
    assert again.is_first.all()
    np.testing.assert_array_equal(env.step(np.zeros(3, int)).reward, 10.0)


def test_poles_fall_as_single_ones_do() -> None:
    env: Any = make_env("CartPole-v1", 8, 7, EnvironmentConfig())
    assert isinstance(env, NativeVectorEnv)
    timestep = env.reset()
    singles = [gymnasium.make("CartPole-v1") for _ in range(8)]
    for i, single in enumerate(singles):
        single.reset()
        single.unwrapped.state = env._env.state[:, i].copy()  # type: ignore[attr-defined]
    rng, over = np.random.default_rng(1), np.zeros(8, bool)
    for _ in range(200):
        action: Any = rng.integers(2, size=8)
        timestep = env.step(action)
        for i in np.flatnonzero(~over).tolist():
            observation, reward, over[i], _, _ = singles[i].step(action[i])
            np.testing.assert_allclose(timestep.observation[i], observation, rtol=1e-5, atol=1e-6)
            assert (timestep.reward[i], timestep.discount[i]) == (reward, 1.0 - over[i])
            assert np.isfinite(timestep.episode_return[i]) == over[i]
    assert over.all()


@pytest.mark.parametrize(
    ("level", "settings", "evaluation"),
    [
        ("Adding-v0", {}, True),
        ("Adding-v0", {"sticky_actions": 0.25}, False),
        ("Adding-v0", {"num_action_repeats": 2}, False),
        ("AtOnce-v0", {}, False),
        ("MountainCar-v0", {}, False),
    ],
)
def test_what_it_cannot_do_is_left_to_single_environments(
    level: str, settings: dict[str, Any], evaluation: bool
) -> None:
    assert isinstance(make_env(level, 2, 7, EnvironmentConfig(**settings), evaluation), SyncVectorEnv)


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        ("raises", "step raised KeyError"),
        ("shape", "step returned observations of shape (1, 2, 1); 3 of the level have (3, 2, 1)"),
    ],
)
def test_its_faults_are_said_in_one_line(breaks: str, words: str) -> None:
    env = make_env("Adding-v0", 3, 7, EnvironmentConfig(env_args=f'{{"breaks": "{breaks}"}}'))
    env.reset()
    with pytest.raises(EnvironmentFailedError) as failure:
        env.step(np.zeros(3, int))
    assert failure.value.line.startswith("Adding-v0: ")
    assert words in failure.value.line
