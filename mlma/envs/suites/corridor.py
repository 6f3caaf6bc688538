"""The short corridor with switched actions: Sutton & Barto, "Reinforcement Learning", 2nd edition, example 13.1.

Three states and a goal in a row. Left and right are swapped in the second state, each step costs 1, and all
observations are equal. The best stochastic policy goes right with probability 2 - sqrt(2) = 0.586 and has a return of
about -11.66; every deterministic or epsilon-greedy policy is far worse. All environments step at once in numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlma.core.config import EnvironmentConfig
from mlma.core.types import ArraySpec, EnvSpec, TimeStep

GOAL = 3
RIGHT = 1


def level_names() -> list[str]:
    """See mlma.envs.registry.Suite."""
    return ["corridor"]


def env_spec(level_name: str, settings: EnvironmentConfig) -> EnvSpec | None:
    """See mlma.envs.registry.Suite."""
    return Corridor.spec if level_name == "corridor" else None


def make_env(
    level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig, evaluation: bool
) -> Corridor | None:
    """See mlma.envs.registry.Suite."""
    return Corridor(num_envs) if level_name == "corridor" else None


class Corridor:
    """See mlma.core.types.VectorEnv. It is deterministic and needs no seed."""

    spec = EnvSpec(ArraySpec((1,), "float32"), num_actions=2, action_repeats=1)

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def reset(self) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        self._position = np.zeros(self.num_envs, np.int32)
        self._steps = np.zeros(self.num_envs, np.int32)
        return self._timestep(is_first=np.ones(self.num_envs, bool), last_action=np.zeros(self.num_envs, np.int32))

    def step(self, action: Any) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        action = np.asarray(action, np.int32)
        first = self._position == GOAL  # the episode ended in the previous step; this step restarts it
        right = (action == RIGHT) != (self._position == 1)
        moved = np.maximum(0, self._position + np.where(right, 1, -1))
        self._position = np.where(first, 0, moved)
        self._steps = np.where(first, 0, self._steps + 1)
        return self._timestep(first, np.where(first, 0, action))

    def _timestep(self, is_first: Any, last_action: Any) -> TimeStep:
        over = self._position == GOAL
        return TimeStep(
            observation=np.ones((self.num_envs, 1), np.float32),
            reward=np.where(is_first, 0, -1).astype(np.float32),
            discount=1 - over.astype(np.float32),
            is_first=is_first,
            last_action=last_action.astype(np.int32),
            episode_return=np.where(over, -self._steps, np.nan).astype(np.float32),
            episode_frames=np.where(over, self._steps, 0).astype(np.int32),
        )

    def close(self) -> None:
        """Nothing to release."""
