"""Catch from bsuite (Osband et al. 2020, arXiv 1908.03568): move a paddle below a ball that falls through a 10x5 board.

The reward is +1 or -1 when the ball reaches the last row; the optimal return is 1.0. Actions: left, stay, right. All
boards step at once in numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlma.core.config import EnvironmentConfig
from mlma.core.types import ArraySpec, EnvSpec, TimeStep

ROWS, COLUMNS = 10, 5


def level_names() -> list[str]:
    """See mlma.envs.registry.Suite."""
    return ["catch"]


def env_spec(level_name: str, settings: EnvironmentConfig) -> EnvSpec | None:
    """See mlma.envs.registry.Suite."""
    return Catch.spec if level_name == "catch" else None


def make_env(level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig, evaluation: bool) -> Catch | None:
    """See mlma.envs.registry.Suite."""
    return Catch(num_envs, seed) if level_name == "catch" else None


class Catch:
    """See mlma.core.types.VectorEnv."""

    spec = EnvSpec(ArraySpec((ROWS * COLUMNS,), "float32"), num_actions=3, action_repeats=1)

    def __init__(self, num_envs: int, seed: int) -> None:
        self.num_envs = num_envs
        self._rng = np.random.default_rng(seed)

    def reset(self) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        # As if all episodes had just ended, so the step below restarts them.
        self._row = np.full(self.num_envs, ROWS - 1)
        self._ball = np.zeros(self.num_envs, int)
        self._paddle = np.zeros(self.num_envs, int)
        return self.step(np.zeros(self.num_envs, np.int32))

    def step(self, action: Any) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        action = np.asarray(action, np.int32)
        first = self._row == ROWS - 1
        self._row = np.where(first, 0, self._row + 1)
        self._ball = np.where(first, self._rng.integers(COLUMNS, size=self.num_envs), self._ball)
        moved = np.clip(self._paddle + action - 1, 0, COLUMNS - 1)
        self._paddle = np.where(first, COLUMNS // 2, moved)
        over = self._row == ROWS - 1
        reward = np.where(over, np.where(self._ball == self._paddle, 1.0, -1.0), 0.0).astype(np.float32)
        return TimeStep(
            observation=self._board(),
            reward=reward,
            discount=1 - over.astype(np.float32),
            is_first=first,
            last_action=np.where(first, 0, action).astype(np.int32),
            episode_return=np.where(over, reward, np.nan).astype(np.float32),
            episode_frames=np.where(over, ROWS - 1, 0).astype(np.int32),
        )

    def _board(self) -> Any:
        board = np.zeros((self.num_envs, ROWS, COLUMNS), np.float32)
        env = np.arange(self.num_envs)
        board[env, self._row, self._ball] = 1
        board[env, ROWS - 1, self._paddle] = 1
        return board.reshape(self.num_envs, -1)

    def render(self, i: int) -> Any:
        """The image of board i, uint8 [H, W, 3]; paddle and ball are white."""
        board = self._board()[i].reshape(ROWS, COLUMNS, 1)
        return (40 + 200 * np.kron(board, np.ones((20, 20, 3)))).astype(np.uint8)

    def close(self) -> None:
        """Nothing to release."""
