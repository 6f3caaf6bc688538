"""Random numbers for action selection, from numpy's generator with the seed of the environments."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlma.core.actions import action_spec
from mlma.core.types import ActionNoise, EnvSpec


class NoiseGenerator:
    """Draws the noise of E environments."""

    def __init__(self, seed: int, epsilons: Any, spec: EnvSpec | None = None) -> None:
        """`spec` is that of the environments; without it, an action takes one number."""
        self._rng, self._epsilons = np.random.default_rng(seed), np.asarray(epsilons, np.float32)
        self._shape = (len(self._epsilons), *(action_spec(spec).shape if spec else ()))

    def draw(self) -> ActionNoise:
        """The noise of one step, [E, ...]."""
        return ActionNoise(self._rng.random(self._shape, np.float32), self._epsilons)
