"""A sum tree in numpy: numbers at its leaves, drawn in proportion to them, many at a time. Schaul et al. 2016, appendix B.2.1.

Every inner node is the sum of its two children, computed anew from them whenever one changes, so that sums cannot drift however
often leaves change. Each operation walks the levels once for the whole batch: log2(n) numpy calls. Not here: locks, and what
the leaves stand for (mlma/replay/prioritized_replay.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np


class SumTree:
    """`size` leaves, all zero at first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._depth = max(1, (size - 1).bit_length())
        self._first = 2**self._depth  # node of leaf 0; node i has children 2i and 2i + 1, the root is node 1
        self._nodes = np.zeros(2 * self._first)  # float64

    @property
    def total(self) -> float:
        return float(self._nodes[1])

    def get(self, leaves: Any) -> Any:
        return self._nodes[self._first + leaves]

    def set(self, leaves: Any, values: Any) -> None:
        """Where a leaf is named twice the last value stays."""
        nodes = np.asarray(leaves, np.int64) + self._first
        self._nodes[nodes] = values
        for _ in range(self._depth):
            nodes = _unique_parents(nodes)
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, sums: Any) -> Any:
        """For each number in [0, total), the leaf in whose stretch of the running sum it lies. Never a leaf of zero."""
        left = np.asarray(sums, np.float64).copy()
        nodes = np.ones(len(left), np.int64)
        for _ in range(self._depth):
            nodes *= 2
            here = self._nodes[nodes]
            # Rounding may leave a little more than the left child has: only a right child that has something takes it.
            right = (left >= here) & (self._nodes[nodes + 1] > 0)
            left -= here * right
            nodes += right
        return nodes - self._first

    def draw(self, count: int, rng: np.random.Generator) -> Any:
        """`count` leaves, one from each of `count` equal stretches of the whole sum."""
        return self.find((np.arange(count) + rng.random(count)) * (self.total / count))


def _unique_parents(nodes: Any) -> Any:
    """Without most of the repeats that siblings make: neighbours in a sorted batch."""
    nodes = nodes // 2
    return nodes[np.concatenate([[True], nodes[1:] != nodes[:-1]])] if len(nodes) > 1 else nodes
