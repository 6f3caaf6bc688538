"""The sum tree against a list that is summed up each time."""

from __future__ import annotations

import numpy as np
import pytest

from mlma.replay.sum_tree import SumTree


def slow_find(values: list[float], number: float) -> int:
    """The first leaf at which the running sum exceeds `number`."""
    total = 0.0
    for leaf, value in enumerate(values):
        total += value
        if number < total:
            return leaf
    raise AssertionError("beyond the sum")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100])
def test_sums_and_leaves_are_those_of_a_list(size: int) -> None:
    rng = np.random.default_rng(size)
    tree, values = SumTree(size), [0.0] * size
    for _ in range(50):
        leaves = rng.integers(size, size=rng.integers(1, 12))
        new = np.where(rng.random(len(leaves)) < 0.3, 0, rng.integers(1, 100, size=len(leaves))).astype(float)
        tree.set(leaves, new)
        for leaf, value in zip(leaves, new, strict=True):
            values[leaf] = value
        np.testing.assert_array_equal(tree.get(np.arange(size)), values)
        assert tree.total == sum(values)
        if tree.total:
            numbers = rng.random(20) * tree.total
            assert tree.find(numbers).tolist() == [slow_find(values, number) for number in numbers]


def test_a_leaf_of_zero_is_never_drawn_not_even_by_rounding() -> None:
    rng = np.random.default_rng(1)
    tree = SumTree(1000)
    nonzero = rng.permutation(1000)[:37]
    tree.set(nonzero, rng.random(37) ** 20)  # values of very different magnitude
    assert set(tree.draw(50_000, rng)) <= set(nonzero)
    assert set(tree.find(np.full(5, tree.total))) <= set(nonzero)
    assert set(tree.find(np.full(5, np.nextafter(tree.total, np.inf)))) <= set(nonzero)


def test_sums_do_not_drift_however_often_leaves_change() -> None:
    rng = np.random.default_rng(2)
    tree = SumTree(256)
    for _ in range(3000):
        leaves = rng.integers(256, size=32)
        tree.set(leaves, 10.0 ** rng.uniform(-9, 9, size=32))
    tree.set(np.arange(256), np.full(256, 0.1))
    assert tree.total == pytest.approx(25.6, rel=1e-14)
    tree.set(np.arange(256), np.zeros(256))
    assert tree.total == 0


def test_leaves_are_drawn_in_proportion_to_their_values() -> None:
    """Chi-square with 19 degrees of freedom: 43.8 is exceeded once in a thousand times."""
    rng = np.random.default_rng(3)
    tree = SumTree(20)
    values = rng.random(20) + 0.05
    tree.set(np.arange(20), values)
    independent = np.concatenate([tree.draw(1, rng) for _ in range(20_000)])
    expected = 20_000 * values / values.sum()
    chi_square = float(np.sum((np.bincount(independent, minlength=20) - expected) ** 2 / expected))
    assert chi_square < 43.8
    stratified = np.bincount(tree.draw(20_000, rng), minlength=20)  # one draw from each interval: closer still
    assert np.abs(stratified - expected).max() <= 2
