"""Runs environments through given actions."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlma.core.types import TimeStep, VectorEnv


def run(env: VectorEnv, actions: Any) -> TimeStep:
    """Time steps [T+1, E, ...]: the reset, then one step per row of `actions` [T, E]. Closes `env`."""
    steps = [env.reset(), *(env.step(action) for action in actions)]
    env.close()
    columns: list[Any] = [
        np.stack([np.asarray(field).copy() for field in fields]) for fields in zip(*steps, strict=True)
    ]
    return TimeStep(*columns)


def random_actions(env: VectorEnv, steps: int, seed: int = 3) -> Any:
    """int [T, E]."""
    return np.random.default_rng(seed).integers(env.spec.num_actions, size=(steps, env.num_envs))
