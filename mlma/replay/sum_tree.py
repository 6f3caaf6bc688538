"""A sum tree in numpy, which samples leaves in proportion to their values. Schaul et al. 2016, appendix B.2.1.

Every inner node is recomputed from its two children whenever one of them changes, so the sums do not drift, however
often leaves change. Each operation walks the levels of the tree once for the whole batch: log2(n) numpy calls. A leaf
or number out of range is refused before anything changes, since one bad value would spoil all sums above it. Not here:
locks, and what the leaves stand for (mlma/replay/prioritized_replay.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np


class SumTree:
    """`size` leaves, initially zero."""

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"a sum tree cannot have {size} leaves")
        self.size = size
        self._depth = max(1, (size - 1).bit_length())
        self._first_leaf = 2**self._depth  # node of leaf 0; node i has children 2i and 2i + 1, the root is node 1
        self._nodes = np.zeros(2 * self._first_leaf)  # float64

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        return float(self._nodes[1])

    def get(self, leaves: Any) -> Any:
        """The values of these leaves. IndexError if there is no such leaf."""
        return self._nodes[self._nodes_of(leaves)]

    def set(self, leaves: Any, values: Any) -> None:
        """Sets these leaves; for a leaf that occurs several times, the last value counts.

        IndexError if there is no such leaf, ValueError unless all values are finite and at least 0.
        """
        nodes, values = self._nodes_of(leaves), np.asarray(values, np.float64)
        if not ((values >= 0) & (values < np.inf)).all():  # also where a value is NaN
            raise ValueError("the values of a sum tree must be finite and at least 0")
        self._nodes[nodes] = values
        for _ in range(self._depth):
            nodes = _unique_parents(nodes)
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, sums: Any) -> Any:
        """For each number, the leaf at which the running sum first exceeds it; never a zero leaf.

        ValueError unless all numbers are in [0, total).
        """
        sums = np.asarray(sums, np.float64)
        if not ((sums >= 0) & (sums < self._nodes[1])).all():  # also where a number is NaN
            raise ValueError(f"the numbers to find must be at least 0 and less than the total, {self.total}")
        return self._descend(sums.copy())

    def draw(self, count: int, rng: np.random.Generator) -> Any:
        """Stratified sample: `count` leaves, one from each of `count` equal intervals of the total.

        ValueError if all leaves are 0.
        """
        if self.total <= 0:
            raise ValueError("cannot draw from a sum tree whose leaves are all 0")
        return self._descend((np.arange(count) + rng.random(count)) * (self.total / count))

    def _nodes_of(self, leaves: Any) -> Any:
        leaves = np.asarray(leaves, np.int64)
        if not ((leaves >= 0) & (leaves < self.size)).all():
            raise IndexError(f"the leaves of a sum tree of {self.size} are 0 to {self.size - 1}")
        return leaves + self._first_leaf

    def _descend(self, remaining: Any) -> Any:
        """See `find`; takes the numbers as its memory. A number may be the total or slightly more, by rounding."""
        nodes = np.ones(len(remaining), np.int64)
        for _ in range(self._depth):
            nodes *= 2
            left_sum = self._nodes[nodes]
            # Rounding may leave slightly more than the left child holds; go right only if the right child is not zero.
            go_right = (remaining >= left_sum) & (self._nodes[nodes + 1] > 0)
            remaining -= left_sum * go_right
            nodes += go_right
        return nodes - self._first_leaf


def _unique_parents(nodes: Any) -> Any:
    """Parents of these nodes, without the repeats that neighbouring siblings cause."""
    nodes = nodes // 2
    return nodes[np.concatenate([[True], nodes[1:] != nodes[:-1]])] if len(nodes) > 1 else nodes
