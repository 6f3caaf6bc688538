"""The weights of a network as one flat float32 vector, the form in which learners publish them.

Its first part are the variables that have gradients. Variables that are computed otherwise follow: PopArt's statistics,
without which the values of an actor would be in other units than the learner's. Most networks have none.

Actors and learner split the vector in the same way; the handshake compares `FlatWeights.signature`. Also names the
variables of a checkpoint. Not here: the format of checkpoints (mlma/learning/checkpoint.py).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

from mlma.core.actions import action_spec
from mlma.core.record_layout import RecordLayout, timestep_spec
from mlma.core.types import ActionNoise, EnvSpec, TimeStep
from mlma.utils.tf_function import tf_function


def dummy_timestep(env: EnvSpec, *leading: int) -> TimeStep:
    """A TimeStep of zeros [*leading, ...]."""
    layout = RecordLayout(timestep_spec(env, *leading))
    return tf.nest.map_structure(lambda array: tf.constant(array[0]), layout.view(layout.empty(1)))


def dummy_noise(env: EnvSpec) -> ActionNoise:
    """ActionNoise of zeros for one environment."""
    return ActionNoise(tf.zeros([1, *action_spec(env).shape]), tf.zeros([1]))


def build_variables(agent: Any, env: EnvSpec) -> None:
    """Creates the network's variables; Sonnet does so at the first call."""
    agent.act(dummy_timestep(env, 1), agent.initial_state(1), dummy_noise(env))


def named_variables(owner: str, variables: Any) -> dict[str, tf.Variable]:
    """Name -> variable. Sonnet's names are not unique within a network, so the index is part of the name."""
    return {f"{owner}/{i:03d}/{v.name}": v for i, v in enumerate(variables)}


class FlatWeights:
    """Reads and writes the variables of a network as one float32 vector."""

    def __init__(self, network: Any) -> None:
        """The variables must exist: see `build_variables`."""
        self.trainable = list(network.trainable_variables)  # what gradients and the optimizer are for
        others = [v for v in network.variables if not v.trainable and v.dtype == tf.float32]
        self.variables = self.trainable + others
        specs = [(v.name, tuple(v.shape), v.dtype.name) for v in self.variables]
        self.count = sum(int(np.prod(v.shape)) for v in self.variables)
        self.signature = hashlib.sha256(repr(specs).encode()).hexdigest()[:16]
        self.read = tf_function(self._read, [])
        self._write_flat = tf_function(self.assign, [tf.TensorSpec([self.count], tf.float32)])

    def _read(self) -> tf.Tensor:
        return tf.concat([tf.reshape(v, [-1]) for v in self.variables], axis=0)

    def assign(self, flat: tf.Tensor) -> None:
        """Assigns a vector [count] to the variables; may be part of a tf.function."""
        values = tf.split(flat, [int(np.prod(v.shape)) for v in self.variables])
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(tf.reshape(value, variable.shape))

    def write(self, data: bytes) -> None:
        """Assigns a vector that is given as bytes."""
        self._write_flat(tf.constant(np.frombuffer(data, np.float32)))
