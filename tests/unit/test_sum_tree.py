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
    for number in (tree.total, np.nextafter(tree.total, np.inf)):  # what a draw can round to
        assert set(tree._descend(np.full(5, number))) <= set(nonzero)


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


# The cases of DQN Zoo's SumTreeTest, as far as this tree has them: it has a fixed size and no copy of its state.


def tree_of(values: list[float]) -> SumTree:
    tree = SumTree(len(values))
    tree.set(np.arange(len(values)), values)
    return tree


@pytest.mark.parametrize("leaf", [-1, 3, 4, 7, 2**40])  # 4 to 7 are within the array, 3 even among its leaves
def test_a_leaf_out_of_range_is_refused_and_nothing_changes(leaf: int) -> None:
    tree = tree_of([4.0, 5.0, 3.0])
    before = tree._nodes.copy()
    with pytest.raises(IndexError, match="leaves of a sum tree of 3 are 0 to 2"):
        tree.get([0, leaf])
    with pytest.raises(IndexError, match="leaves of a sum tree of 3 are 0 to 2"):
        tree.set([0, leaf], [1.0, 1.0])
    np.testing.assert_array_equal(tree._nodes, before)


@pytest.mark.parametrize("value", [-1.0, -1e-300, np.nan, np.inf, -np.inf])
def test_a_value_that_no_sum_survives_is_refused_and_nothing_changes(value: float) -> None:
    tree = tree_of([0.0, 1.0, 2.0])
    before = tree._nodes.copy()
    for leaves, values in (([1], [value]), ([0, 2], [1.0, value]), ([0, 2], value)):
        with pytest.raises(ValueError, match="finite and at least 0"):
            tree.set(leaves, values)
    np.testing.assert_array_equal(tree._nodes, before)


@pytest.mark.parametrize("number", [-1.0, -1e-300, 11.0, np.nextafter(11.0, 12.0), 12.0, np.nan, np.inf])
def test_a_number_outside_of_the_total_is_not_looked_for(number: float) -> None:
    tree = tree_of([3.0, 1.0, 2.0, 5.0])
    with pytest.raises(ValueError, match=r"less than the total, 11\.0"):
        tree.find([1.0, number])


@pytest.mark.parametrize(("number", "leaf"), [(0, 0), (2.9, 0), (3, 1), (3.9, 1), (4, 2), (5.9, 2), (6, 3), (10.9, 3)])
def test_the_leaf_of_a_number_is_the_first_whose_running_sum_exceeds_it(number: float, leaf: int) -> None:
    assert tree_of([3.0, 1.0, 2.0, 5.0]).find([number]).tolist() == [leaf]


@pytest.mark.parametrize("number", [0, 0.1, 0.9, 1, 1.1, 3.9, 4, 4.1, 5.9, 6, 6.1, 8.9, 8.999999])
def test_a_leaf_of_zero_is_never_found(number: float) -> None:
    values = [0.0, 1, 0, 0, 3, 0, 2, 0, 3, 0]
    assert values[tree_of(values).find([number])[0]] > 0


def test_several_leaves_are_set_and_read_at_once() -> None:
    tree = tree_of([4, 5, 3, 9])
    tree.set([2, 0], [99, 88])
    assert tree.get([0, 1, 2, 3]).tolist() == [88, 5, 99, 9]
    assert tree.total == 201


def test_a_tree_without_leaves_or_with_zeros_alone_has_nothing_to_find_or_draw() -> None:
    for size in (0, 1, 3):
        tree, nothing = SumTree(size), np.zeros(0, np.int64)
        tree.set(nothing, [])
        assert tree.total == 0
        assert len(tree.get(nothing)) == len(tree.find([])) == 0
        with pytest.raises(ValueError, match="less than the total"):
            tree.find([0.0])
        with pytest.raises(ValueError, match="all 0"):
            tree.draw(1, np.random.default_rng(0))
    with pytest.raises(IndexError):
        SumTree(0).get([0])
    with pytest.raises(ValueError, match="-1 leaves"):
        SumTree(-1)


@pytest.mark.parametrize("seed", range(10))
def test_random_operations_give_what_a_list_gives(seed: int) -> None:
    """Values from a Cauchy distribution, as in DQN Zoo's comparison with a naive tree."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(10, 40))
    tree, values = SumTree(size), np.zeros(size)
    for _ in range(20):
        leaves = rng.choice(size, size=4, replace=False)
        values[leaves] = np.abs(rng.standard_cauchy(4))
        tree.set(leaves, values[leaves])
        np.testing.assert_array_equal(tree.get(np.arange(size)), values)
        assert tree.total == pytest.approx(values.sum(), rel=1e-14)
        numbers = rng.uniform(0, 0.999999 * tree.total, size=4)
        np.testing.assert_array_equal(tree.find(numbers), np.searchsorted(np.cumsum(values), numbers, side="right"))
