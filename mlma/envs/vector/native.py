"""A level's own vector environment, which steps all its environments at once: gymnasium's `vector_entry_point`.

Used for training where the level has one and nothing asks for single environments. Not here: single environments, one
after the other (mlma/envs/vector/sequential.py) or in worker processes (mlma/envs/vector/multiprocess.py).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from mlma.core.actions import action_spec
from mlma.core.types import EnvSpec, TimeStep
from mlma.envs.action_spaces import ActionConverter
from mlma.envs.failures import EnvironmentFailedError, WrongResultError
from mlma.envs.vector.sequential import copy_timestep, empty_timestep


def is_supported(env: Any) -> bool:
    """Whether this vector environment can be used: numbers as observations, one array as actions, and episodes that
    are restarted by the step after their end."""
    observation, action = env.single_observation_space, env.single_action_space
    return (
        env.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP
        and isinstance(observation, spaces.Box)
        and isinstance(action, spaces.Discrete | spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary)
    )


class NativeVectorEnv:
    """See mlma.core.types.VectorEnv."""

    def __init__(self, env: Any, spec: EnvSpec, actions: ActionConverter, seed: int, level_name: str) -> None:
        """`env` is a gymnasium.vector.VectorEnv for which `is_supported`; `spec` and `actions` are those of one of its
        environments, whose observation is a vector."""
        self.spec, self.num_envs = spec, env.num_envs
        self._env, self._actions, self._seed, self._level_name = env, actions, seed, level_name
        self._listed = [actions.convert(i) for i in range(actions.count)]
        self._shape = (env.num_envs, *env.single_observation_space.shape)
        self._timestep = empty_timestep(spec, env.num_envs)
        action = action_spec(spec)
        self._no_action = np.zeros((env.num_envs, *action.shape), action.dtype)
        self._over = np.zeros(env.num_envs, bool)
        self._return, self._steps = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
        self._began, self._total_steps = time.monotonic(), 0

    def reset(self) -> TimeStep:
        """See mlma.core.types.VectorEnv. EnvironmentFailedError for whatever the environment raises."""
        self._began, self._total_steps = time.monotonic(), 0
        no = np.zeros(self.num_envs, bool)
        try:
            observation, _ = self._env.reset(seed=self._seed)
            self._over[:] = True  # so that each begins an episode
            return self._write(observation, no, no, no, self._no_action)
        except Exception as error:
            raise self._failure("reset", error) from None

    def step(self, action: Any) -> TimeStep:
        """See mlma.core.types.VectorEnv. EnvironmentFailedError for whatever the environment raises."""
        self._total_steps += 1
        action = np.asarray(action, self._no_action.dtype)
        choices = [self._listed[i] for i in action] if self._listed else map(self._actions.convert, action)
        try:
            observation, reward, terminated, truncated, _ = self._env.step(np.stack(list(choices)))
            return self._write(observation, reward, terminated, truncated, action)
        except Exception as error:
            raise self._failure("step", error) from None

    def _write(self, observation: Any, reward: Any, terminated: Any, truncated: Any, action: Any) -> TimeStep:
        if (shape := np.shape(observation)) != self._shape:
            raise WrongResultError(
                f"returned observations of shape {shape}; {self.num_envs} of the level have {self._shape}"
            )
        timestep, first = self._timestep, self._over  # the step after an end restarts, whatever the action
        timestep.observation[:] = np.reshape(observation, timestep.observation.shape)
        timestep.is_first[:] = first
        timestep.reward[:] = np.where(first, 0.0, reward)
        timestep.discount[:] = np.where(first, 1.0, ~np.asarray(terminated, bool))
        timestep.last_action[:] = action
        timestep.last_action[first] = 0
        self._return = np.where(first, 0.0, self._return + reward)
        self._steps = np.where(first, 0, self._steps + 1)
        self._over = ~first & np.logical_or(terminated, truncated)
        timestep.episode_return[:] = np.where(self._over, self._return, np.nan)
        timestep.episode_frames[:] = np.where(self._over, self._steps * self.spec.action_repeats, 0)
        return copy_timestep(timestep)

    def _failure(self, method: str, error: Exception) -> EnvironmentFailedError:
        seconds = time.monotonic() - self._began
        return EnvironmentFailedError(self._level_name, method, error, self._total_steps, seconds)

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()
