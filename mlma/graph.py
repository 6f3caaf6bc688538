"""tf.function as it is used here: without autograph, which leaves temporary files behind and is not needed where branches are
written with tf.cond; and, for the call that an actor makes at every step, without its slow handling of nests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tree


def graph(function: Callable[..., Any], input_signature: Any = None) -> Any:
    return tf.function(function, input_signature=input_signature, autograph=False)


class Flat:
    """`function` as a graph for arguments of the shapes of the first call; nests are taken apart and put together here.

    Calling the concrete function itself would look at the types of all arguments anew: .4 of 2.8 ms for 32 environments.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._concrete: Any = None
        self.traces = 0
        self._answer: Any = None  # the nest of what `function` returns: False where it has None

    def __call__(self, *arguments: Any) -> Any:
        tensors = [tf.convert_to_tensor(leaf) for leaf in leaves(arguments)]
        if self._concrete is None:
            self._trace(arguments, tensors)
        return nested(self._answer, self._concrete._call_flat(tensors, self._concrete.captured_inputs))

    def _trace(self, arguments: Any, tensors: list[tf.Tensor]) -> None:
        def inside(*tensors: tf.Tensor) -> list[tf.Tensor]:
            answer = self._function(*nested(present(arguments), tensors))
            self._answer = present(answer)
            return leaves(answer)

        specs = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in tensors]
        self.traces += 1
        self._concrete = graph(inside).get_concrete_function(*specs)


def leaves(nest: Any) -> list[Any]:
    """Of a nest, without its Nones."""
    return [leaf for leaf in tree.flatten(nest) if leaf is not None]


def present(nest: Any) -> Any:
    """The nest with True for each leaf and False for each None."""
    return tree.map_structure(lambda leaf: leaf is not None, nest)


def nested(present: Any, leaves: Any) -> Any:
    """The nest of these present with these leaves."""
    found = iter(leaves)
    return tree.map_structure(lambda something: next(found) if something else None, present)
