"""mlma/utils/tf_function.py: nests passed through a graph, and arguments that the graph does not read."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from mlma.utils.tf_function import CachedGraph, leaf_mask, leaves, nest_builder


class Pair(NamedTuple):
    left: Any
    right: Any


@pytest.mark.parametrize(
    "nest", [1.5, (1, None, [2, 3]), Pair({"b": 1, "a": Pair(None, 2)}, ()), {"z": None, "y": [4]}]
)
def test_a_nest_comes_back_from_its_leaves(nest: Any) -> None:
    rebuilt = nest_builder(leaf_mask(nest))(leaves(nest))
    assert rebuilt == nest and type(rebuilt) is type(nest)


def test_a_graph_answers_as_its_function_for_arrays_and_tensors_each_time() -> None:
    def function(pair: Pair, extras: dict[str, Any]) -> Any:
        return Pair(pair.left + extras["x"], None), {"twice": 2 * extras["y"]}

    graph = CachedGraph(function)
    for number in range(3):
        pair = Pair(tf.fill([2], float(number)), None)
        extras = {"y": np.full(3, number, np.int32), "x": np.ones(2, np.float32)}
        expected, result = function(pair, extras), graph(pair, extras)
        assert result[0].right is None
        np.testing.assert_array_equal(result[0].left, expected[0].left)
        np.testing.assert_array_equal(result[1]["twice"], expected[1]["twice"])
    assert graph.traces == 1


def test_what_only_a_variable_takes_is_read_and_what_nothing_depends_on_is_not() -> None:
    variable = tf.Variable(0.0)

    def function(pair: Pair) -> tf.Tensor:
        tf.exp(pair.right)
        variable.assign(pair.left)
        return tf.constant(1)

    graph = CachedGraph(function)
    for number in (1, 2):
        graph(Pair(np.float32(number), np.float32(number)))
        assert variable.numpy() == number
    graph(Pair(np.float32(3), "not convertible to a number"))
    assert variable.numpy() == 3
