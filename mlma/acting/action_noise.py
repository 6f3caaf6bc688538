"""Whoever plays draws what is left to chance: numpy's generator, seeded as the environments are."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlma.core.types import ActionNoise


class NoiseGenerator:
    """Draws for E environments."""

    def __init__(self, seed: int, epsilons: Any) -> None:
        self._rng, self._epsilons = np.random.default_rng(seed), np.asarray(epsilons, np.float32)

    def draw(self) -> ActionNoise:
        return ActionNoise(self._rng.random(len(self._epsilons), np.float32), self._epsilons)
