"""A T-maze after Bakker 2002, "Reinforcement learning with long short-term memory".

The first observation is a cue: it shows whether the goal is up or down. Then follow a corridor that looks the same
everywhere and a junction that looks the same in every episode. The reward is +1 for the correct turn, and -1 for the
wrong turn or a timeout, so the optimal return is 1. A policy without memory turns correctly in half of the episodes at
best: its return is 0. All mazes step at once in numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlma.core.config import EnvironmentConfig
from mlma.core.types import ArraySpec, EnvSpec, TimeStep

CORRIDOR = 8  # steps from the start to the junction
LIMIT = 4 * CORRIDOR  # maximum steps of an episode
FORWARD, UP, DOWN = range(3)


def level_names() -> list[str]:
    """See mlma.envs.registry.Suite."""
    return ["tmaze"]


def env_spec(level_name: str, settings: EnvironmentConfig) -> EnvSpec | None:
    """See mlma.envs.registry.Suite."""
    return TMaze.spec if level_name == "tmaze" else None


def make_env(level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig, evaluation: bool) -> TMaze | None:
    """See mlma.envs.registry.Suite."""
    return TMaze(num_envs, seed) if level_name == "tmaze" else None


class TMaze:
    """See mlma.core.types.VectorEnv."""

    spec = EnvSpec(ArraySpec((4,), "float32"), num_actions=3, action_repeats=1)  # cue up, cue down, corridor, junction

    def __init__(self, num_envs: int, seed: int) -> None:
        self.num_envs = num_envs
        self._rng = np.random.default_rng(seed)

    def reset(self) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        self._over = np.ones(self.num_envs, bool)  # as if all episodes had just ended, so the step below restarts them
        self._position = np.zeros(self.num_envs, int)
        self._steps = np.zeros(self.num_envs, int)
        self._goal = np.full(self.num_envs, UP)
        return self.step(np.zeros(self.num_envs, np.int32))

    def step(self, action: Any) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        action = np.asarray(action, np.int32)
        first = self._over
        turned = (self._position == CORRIDOR) & (action != FORWARD) & ~first
        correct = turned & (action == self._goal)
        walked = (action == FORWARD) & (self._position < CORRIDOR)  # turning in the corridor bumps into a wall
        self._position = np.where(first, 0, self._position + walked)
        self._steps = np.where(first, 0, self._steps + 1)
        self._goal = np.where(first, self._rng.integers(UP, DOWN + 1, size=self.num_envs), self._goal)
        self._over = turned | (self._steps == LIMIT)
        reward = np.where(self._over, np.where(correct, 1.0, -1.0), 0.0).astype(np.float32)
        return TimeStep(
            observation=self._observation(first),
            reward=reward,
            discount=1 - self._over.astype(np.float32),
            is_first=first,
            last_action=np.where(first, 0, action).astype(np.int32),
            episode_return=np.where(self._over, reward, np.nan).astype(np.float32),
            episode_frames=np.where(self._over, self._steps, 0).astype(np.int32),
        )

    def _observation(self, first: Any) -> Any:
        junction = self._position == CORRIDOR
        features = [first & (self._goal == UP), first & (self._goal == DOWN), ~first & ~junction, junction]
        return np.stack(features, axis=1).astype(np.float32)

    def close(self) -> None:
        """Nothing to release."""
