"""Any registered gymnasium id with discrete actions and one Box observation. Environments step in this process, in turn."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mlma.config import Config
from mlma.types import ArraySpec, EnvSpec, TimeStep


def names() -> list[str]:
    return [name for name, spec in gymnasium.registry.items() if spec.namespace != "ALE" and "NoFrameskip" not in name]


def make(level_name: str, num_envs: int, seed: int, config: Config, evaluation: bool) -> GymVector | None:
    if level_name not in gymnasium.registry:
        return None
    return GymVector(level_name, num_envs, seed)


def film(level_name: str, num_envs: int, seed: int, config: Config) -> FilmedGymVector | None:
    """The same games with pictures; None where the environment cannot draw."""
    if level_name not in gymnasium.registry:
        return None
    env = FilmedGymVector(level_name, num_envs, seed, render_mode="rgb_array")
    try:
        env.reset()
        env.picture(0)
    except (gymnasium.error.Error, AttributeError):
        env.close()
        return None
    return env


class GymVector:
    """E gymnasium environments, one after the other; NEXT_STEP autoreset, as in mlma.envs.atari."""

    def __init__(self, level_name: str, num_envs: int, seed: int, **options: Any) -> None:
        self.num_envs, self._seed = num_envs, seed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gymnasium warns of ids that have a newer version
            makers = [lambda: gymnasium.make(level_name, **options)] * num_envs
            self._env = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
        actions, observations = self._env.single_action_space, self._env.single_observation_space
        if not isinstance(actions, gymnasium.spaces.Discrete) or not isinstance(observations, gymnasium.spaces.Box):
            self._env.close()
            raise ValueError(
                f"--level_name={level_name}: has action space {actions} and observation space {observations}; "
                "supported are Discrete actions and Box observations"
            )
        self._first_action = int(actions.start)
        self._is_image = observations.dtype == np.uint8 and len(observations.shape) in (2, 3)
        shape = observations.shape if len(observations.shape) == 3 or not self._is_image else (*observations.shape, 1)
        if not self._is_image:
            shape = (int(np.prod(shape)),)
        self.spec = EnvSpec(ArraySpec(tuple(shape), "uint8" if self._is_image else "float32"), int(actions.n), 1)

    def reset(self) -> TimeStep:
        observation, _ = self._env.reset(seed=self._seed)
        self._over = np.zeros(self.num_envs, bool)
        self._return = np.zeros(self.num_envs, np.float32)
        self._steps = np.zeros(self.num_envs, np.int32)
        zeros = np.zeros(self.num_envs, np.float32)
        return self._timestep(observation, zeros, zeros + 1, np.ones(self.num_envs, bool), zeros)

    def step(self, action: Any) -> TimeStep:
        action = np.asarray(action, np.int64)
        observation, reward, terminated, truncated, _ = self._env.step(action + self._first_action)
        first = self._over
        self._return = np.where(first, 0, self._return + reward)
        self._steps = np.where(first, 0, self._steps + 1)
        self._over = terminated | truncated
        return self._timestep(observation, reward, 1 - terminated.astype(np.float32), first, np.where(first, 0, action))

    def _timestep(self, observation: Any, reward: Any, discount: Any, first: Any, last_action: Any) -> TimeStep:
        return TimeStep(
            observation=np.asarray(observation, self.spec.observation.dtype).reshape(
                self.num_envs, *self.spec.observation.shape
            ),
            reward=np.asarray(reward, np.float32),
            discount=discount,
            first=first,
            last_action=last_action.astype(np.int32),
            episode_return=np.where(self._over, self._return, np.nan).astype(np.float32),
            episode_frames=np.where(self._over, self._steps, 0).astype(np.int32),
        )

    def close(self) -> None:
        self._env.close()


class FilmedGymVector(GymVector):
    def picture(self, i: int) -> Any:
        """uint8 [H, W, 3]."""
        return np.asarray(self._env.envs[i].render())
