"""Levels of the tests: `tests.support.levels:Id` works in every process that runs in the root of the repository."""

from __future__ import annotations

import os
import string
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 10  # steps of an episode
TEXT = spaces.Text(40, charset=string.ascii_lowercase + " ")


class Dark(gymnasium.Env):
    """An image and a text show which of six button combinations gives reward; the buttons are in two groups."""

    observation_space = spaces.Dict(
        screen=spaces.Box(0, 255, (40, 40, 3), np.uint8), step=spaces.Discrete(LENGTH + 1), text=TEXT
    )
    action_space = spaces.MultiDiscrete([2, 3])

    def __init__(self, crash_at: int = -1, once: str = "", hang: bool = False) -> None:
        """Crashes or hangs at step `crash_at` of this environment; with the file `once`, in only one process."""
        self._crash_at, self._once, self._hang, self._total_steps = crash_at, once, hang, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._count, self._target = 0, self.np_random.integers(6)
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._count, self._total_steps = self._count + 1, self._total_steps + 1
        if self._total_steps == self._crash_at:
            self._crash()
        reward = float(3 * action[0] + action[1] == self._target)
        return self._observation(), reward, self._count == LENGTH, False, {}

    def _crash(self) -> None:
        if self._once:
            try:
                open(self._once, "x").close()
            except FileExistsError:
                return
        print(f"it breaks at step {self._total_steps}")
        if self._hang:
            time.sleep(1000)
        os._exit(17)

    def _observation(self) -> Any:
        screen = np.full((40, 40, 3), 40 * self._target, np.uint8)
        return {"screen": screen, "step": self._count, "text": f"press number {'abcdef'[self._target]}"}


class Buttons(Dark):
    """Dark without the image."""

    observation_space = spaces.Dict(step=spaces.Discrete(LENGTH + 1), text=TEXT)

    def _observation(self) -> Any:
        return {name: value for name, value in super()._observation().items() if name != "screen"}


def dark(**options: Any) -> gymnasium.Env:
    """Makes Dark-v0."""
    return Dark(**options)


def crashing(**options: Any) -> gymnasium.Env:
    """Makes Crashing-v0 and Hanging-v0; the environment variables CRASH_AT and CRASH_ONCE set when."""
    return Dark(crash_at=int(os.environ.get("CRASH_AT", "25")), once=os.environ.get("CRASH_ONCE", ""), **options)


def buttons(**options: Any) -> gymnasium.Env:
    """Makes Buttons-v0."""
    return Buttons(**options)


gymnasium.register("Dark-v0", dark)
gymnasium.register("Buttons-v0", buttons)
gymnasium.register("Crashing-v0", crashing)
gymnasium.register("Hanging-v0", crashing, kwargs={"hang": True})
