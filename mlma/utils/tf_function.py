"""tf.function as it is used here: without autograph, which leaves temporary files behind and is not needed where branches are
written with tf.cond; and, for the call that an actor makes at every step, without its slow handling of nests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tree


def tf_function(function: Callable[..., Any], input_signature: Any = None) -> Any:
    return tf.function(function, input_signature=input_signature, autograph=False)


class CachedGraph:
    """`function` as a graph for arguments of the shapes of the first call; nests are taken apart and put together here, and
    what the graph does not read is not converted.

    Calling the concrete function itself would look at the types of all arguments anew: .4 of 2.8 ms for 32 environments.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._concrete: Any = None
        self.traces = 0
        self._unread: dict[int, tf.Tensor] = {}  # any tensor will do for these leaves
        self._put_together: Callable[[Any], Any]

    def __call__(self, *arguments: Any) -> Any:
        given = leaves(arguments)
        if self._concrete is None:
            self._trace(arguments, [tf.convert_to_tensor(leaf) for leaf in given])
        unread = self._unread
        tensors = [unread[i] if i in unread else _to_tensor(leaf) for i, leaf in enumerate(given)]
        return self._put_together(self._concrete._call_flat(tensors, self._concrete.captured_inputs))

    def _trace(self, arguments: Any, tensors: list[tf.Tensor]) -> None:
        def inside(*tensors: tf.Tensor) -> list[tf.Tensor]:
            answer = self._function(*nest_builder(leaf_mask(arguments))(tensors))
            self._put_together = nest_builder(leaf_mask(answer))
            return leaves(answer)

        specs = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in tensors]
        self.traces += 1
        self._concrete = tf_function(inside).get_concrete_function(*specs)
        read = _operations_read(self._concrete.graph)
        inputs = self._concrete.inputs[: len(tensors)]  # those that are captured follow
        self._unread = {i: tensors[i] for i, inner in enumerate(inputs) if inner.op not in read}


def _operations_read(graph: Any) -> set[Any]:
    """The operations that something which comes of the graph follows from."""
    found: set[Any] = set()
    ahead = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    while ahead:
        operation = ahead.pop()
        if operation not in found:
            found.add(operation)
            ahead += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    return found


def _to_tensor(leaf: Any) -> tf.Tensor:
    return tf.constant(leaf) if isinstance(leaf, np.ndarray) else tf.convert_to_tensor(leaf)  # the first is faster where it can


def leaves(nest: Any) -> list[Any]:
    """Of a nest, without its Nones."""
    return [leaf for leaf in tree.flatten(nest) if leaf is not None]


def leaf_mask(nest: Any) -> Any:
    """The nest with True for each leaf and False for each None."""
    return tree.map_structure(lambda leaf: leaf is not None, nest)


def nest_builder(present: Any) -> Callable[[Any], Any]:
    """What makes the nest of these present of its leaves: fifteen times as fast as the general ways."""
    make = _builder(present)
    return lambda leaves: make(iter(leaves))


def _builder(present: Any) -> Callable[[Any], Any]:
    if isinstance(present, dict):
        items = [(name, _builder(present[name])) for name in sorted(present)]  # the order of tree.flatten
        return lambda leaves: {name: make(leaves) for name, make in items}
    if isinstance(present, (tuple, list)):
        makers = [_builder(each) for each in present]
        join: Callable[[Any], Any] = getattr(present, "_make", type(present))
        return lambda leaves: join([make(leaves) for make in makers])
    return next if present else lambda leaves: None
