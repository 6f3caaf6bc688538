"""A sum tree in numpy, which samples leaves in proportion to their values. Schaul et al. 2016, appendix B.2.1.

Every inner node is recomputed from its two children whenever one of them changes, so the sums do not drift, however
often leaves change. Each operation walks the levels of the tree once for the whole batch: log2(n) numpy calls. Not
here: locks, and what the leaves stand for (mlma/replay/prioritized_replay.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np


class SumTree:
    """`size` leaves, initially zero."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._depth = max(1, (size - 1).bit_length())
        self._first_leaf = 2**self._depth  # node of leaf 0; node i has children 2i and 2i + 1, the root is node 1
        self._nodes = np.zeros(2 * self._first_leaf)  # float64

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        return float(self._nodes[1])

    def get(self, leaves: Any) -> Any:
        """The values of these leaves."""
        return self._nodes[self._first_leaf + leaves]

    def set(self, leaves: Any, values: Any) -> None:
        """Sets these leaves; for a leaf that occurs several times, the last value counts."""
        nodes = np.asarray(leaves, np.int64) + self._first_leaf
        self._nodes[nodes] = values
        for _ in range(self._depth):
            nodes = _unique_parents(nodes)
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, sums: Any) -> Any:
        """For each number in [0, total), the leaf at which the running sum first exceeds it; never a zero leaf."""
        remaining = np.asarray(sums, np.float64).copy()
        nodes = np.ones(len(remaining), np.int64)
        for _ in range(self._depth):
            nodes *= 2
            left_sum = self._nodes[nodes]
            # Rounding may leave slightly more than the left child holds; go right only if the right child is not zero.
            go_right = (remaining >= left_sum) & (self._nodes[nodes + 1] > 0)
            remaining -= left_sum * go_right
            nodes += go_right
        return nodes - self._first_leaf

    def draw(self, count: int, rng: np.random.Generator) -> Any:
        """Stratified sample: `count` leaves, one from each of `count` equal intervals of the total."""
        return self.find((np.arange(count) + rng.random(count)) * (self.total / count))


def _unique_parents(nodes: Any) -> Any:
    """Parents of these nodes, without the repeats that neighbouring siblings cause."""
    nodes = nodes // 2
    return nodes[np.concatenate([[True], nodes[1:] != nodes[:-1]])] if len(nodes) > 1 else nodes
