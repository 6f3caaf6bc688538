"""Random numbers for action selection, from numpy's generator with the seed of the environments."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlma.core.types import ActionNoise


class NoiseGenerator:
    """Draws the noise of E environments."""

    def __init__(self, seed: int, epsilons: Any) -> None:
        self._rng, self._epsilons = np.random.default_rng(seed), np.asarray(epsilons, np.float32)

    def draw(self) -> ActionNoise:
        """The noise of one step, [E]."""
        return ActionNoise(self._rng.random(len(self._epsilons), np.float32), self._epsilons)
