"""mlma/utils/tf_function.py: nests in and out of a graph, and what is not converted because nothing reads it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from mlma.utils.tf_function import CachedGraph, leaf_mask, leaves, nest_builder


class Pair(NamedTuple):
    left: Any
    right: Any


@pytest.mark.parametrize("nest", [1.5, (1, None, [2, 3]), Pair({"b": 1, "a": Pair(None, 2)}, ()), {"z": None, "y": [4]}])
def test_a_nest_comes_back_from_its_leaves(nest: Any) -> None:
    again = nest_builder(leaf_mask(nest))(leaves(nest))
    assert again == nest and type(again) is type(nest)


def test_a_graph_answers_as_its_function_for_arrays_and_tensors_anew_each_time() -> None:
    def function(pair: Pair, more: dict[str, Any]) -> Any:
        return Pair(pair.left + more["x"], None), {"twice": 2 * more["y"]}

    flat = CachedGraph(function)
    for number in range(3):
        pair = Pair(tf.fill([2], float(number)), None)
        more = {"y": np.full(3, number, np.int32), "x": np.ones(2, np.float32)}
        wanted, found = function(pair, more), flat(pair, more)
        assert found[0].right is None
        np.testing.assert_array_equal(found[0].left, wanted[0].left)
        np.testing.assert_array_equal(found[1]["twice"], wanted[1]["twice"])
    assert flat.traces == 1


def test_what_only_a_variable_takes_is_read_and_what_nothing_follows_from_is_not() -> None:
    kept = tf.Variable(0.0)

    def function(pair: Pair) -> tf.Tensor:
        tf.exp(pair.right)
        kept.assign(pair.left)
        return tf.constant(1)

    flat = CachedGraph(function)
    for number in (1, 2):
        flat(Pair(np.float32(number), np.float32(number)))
        assert kept.numpy() == number
    flat(Pair(np.float32(3), "nothing that could be converted to a number"))
    assert kept.numpy() == 3
