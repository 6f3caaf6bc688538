"""Environments as users bring them, that nobody tuned for: `./tests/support/untuned.py:NAME`."""

from __future__ import annotations

import ctypes
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 20  # steps of an episode


class Untuned(gymnasium.Env):
    """Random observations; the reward is 1. `fail` breaks it after `after` steps."""

    observation_space: Any = spaces.Box(-1, 1, (4,), np.float32)
    action_space: Any = spaces.Discrete(3)

    def __init__(self, fail: str = "", after: int = 0) -> None:
        self._fail, self._after, self._total = fail, after, 0
        self.observation_space.seed(1)
        if fail == "open":
            raise OSError("no licence")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self._count = 0
        if self._fail == "reset":
            raise RuntimeError("the door\nis locked")
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Any]:
        assert self.action_space.contains(action), action
        self._count, self._total = self._count + 1, self._total + 1
        due = self._total > self._after
        if self._fail == "step" and due:
            raise RuntimeError(f"out of fuel at {self._total}")
        if self._fail == "crash" and due:
            ctypes.string_at(0)
        reward: Any = {"nan reward": np.nan, "no reward": None}.get(self._fail, 1.0)
        return self._observe(), reward, self._count == LENGTH, False, {}

    def _observe(self) -> Any:
        value = self.observation_space.sample()
        if self._fail == "shape":
            return value[:1]
        if self._fail == "nan" and self._total > self._after:
            value[0] = np.nan
        return value


class Image(Untuned):
    observation_space = spaces.Box(0, 255, (48, 48, 3), np.uint8)


class ChannelsFirst(Untuned):
    observation_space = spaces.Box(0, 255, (3, 48, 48), np.uint8)


class FloatImage(Untuned):
    observation_space = spaces.Box(0, 1, (48, 48, 3), np.float32)


class Dictionary(Untuned):
    observation_space = spaces.Dict(
        camera=spaces.Box(0, 255, (3, 40, 40), np.uint8), speed=spaces.Box(-1, 1, (2,)), gear=spaces.Discrete(3)
    )
    action_space = spaces.Dict(turn=spaces.Discrete(3), brake=spaces.Discrete(2))


class Pair(Untuned):
    observation_space = spaces.Tuple((spaces.Discrete(5), spaces.MultiBinary(3)))
    action_space = spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(2)))


class Choices(Untuned):
    observation_space = spaces.MultiDiscrete([3, 4])
    action_space = spaces.MultiDiscrete([3, 2])


class Buttons(Untuned):
    observation_space = spaces.MultiBinary(6)
    action_space = spaces.MultiBinary(4)


class Sized(Untuned):
    """Has as many numbers as it is told to."""

    def __init__(self, size: int, names: list[str] | None = None) -> None:
        self.observation_space = spaces.Box(-1, 1, (size,), np.float32)
        super().__init__()


class Unbounded(Untuned):
    observation_space = spaces.Box(-np.inf, np.inf, (48, 48, 3), np.float32)


class Stacked(Untuned):
    observation_space = spaces.Box(0, 255, (4, 48, 48, 3), np.uint8)


class NoEnv:
    """What a mistaken name may lead to."""


def wrapped(size: int) -> gymnasium.Env:
    """A factory that applies a wrapper."""
    return gymnasium.wrappers.TimeLimit(Sized(size), 5)


gymnasium.register("Untuned-v0", f"{__name__}:Untuned")
