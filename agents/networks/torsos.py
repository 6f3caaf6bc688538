"""Torsos: convolutional stacks, the deep residual torso (Espeholt et al. 2018, figure 3) and an MLP.

Those for images compute in the type of their input: agents/networks/precision.py.
"""

from __future__ import annotations

from typing import Any

import sonnet as snt
import tensorflow as tf

from agents.networks.initializers import ORTHOGONAL, Initializers
from agents.networks.precision import Bias, Conv2D, Linear

SHALLOW_CONVOLUTIONS = [(16, 8, 4), (32, 4, 2)]  # Mnih et al. 2016, Espeholt et al. 2018
NATURE_CONVOLUTIONS = [(32, 8, 4), (64, 4, 2), (64, 3, 1)]  # Mnih et al. 2015


def conv_torso(
    convolutions: list[tuple[int, int, int]], hidden: int, name: str, initializers: Initializers = ORTHOGONAL
) -> snt.Module:
    """Convolutions (channels, kernel, stride) with VALID padding, then a linear layer if `hidden`; ReLU after each."""
    layers: list[Any] = []
    w_init = initializers.before_relu
    for channels, kernel, stride in convolutions:
        layers += [Conv2D(channels, kernel, stride, padding="VALID", w_init=w_init), tf.nn.relu]
    layers.append(snt.Flatten())
    if hidden:
        layers += [Linear(hidden, w_init=w_init), tf.nn.relu]
    return snt.Sequential(layers, name=name)


class ResidualTorso(snt.Module):
    """IMPALA's deep torso: three sections of [convolution, max-pool, two residual blocks], a linear layer of 256."""

    def __init__(self, name: str | None = None) -> None:
        """The sections have 16, 32 and 32 channels."""
        super().__init__(name=name)
        self._sections = [(Conv2D(channels, 3), [self._block(channels) for _ in range(2)]) for channels in (16, 32, 32)]
        self._out = snt.Sequential([tf.nn.relu, snt.Flatten(), Linear(256), tf.nn.relu])

    @staticmethod
    def _block(channels: int) -> tuple[snt.Module, ...]:
        return Conv2D(channels, 3), Conv2D(channels, 3, with_bias=False), Bias(bias_dims=[-1])

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """[N, H, W, C] -> [N, 256]."""
        for convolution, blocks in self._sections:
            x = tf.nn.max_pool2d(convolution(x), 3, 2, "SAME")
            for conv_1, conv_2, bias in blocks:
                # Deviation: the second bias is added after the sum, which gives the same function. With it before the
                # sum, TensorFlow 2.21 warns about every graph that has convolution, bias, sum and ReLU in a row.
                x = bias(x + conv_2(tf.nn.relu(conv_1(tf.nn.relu(x)))))
        return self._out(x)


def mlp_torso(name: str = "torso") -> snt.Module:
    """Two linear layers of 64 with tanh, for vectors."""
    return snt.Sequential([snt.Flatten(), snt.Linear(64), tf.tanh, snt.Linear(64), tf.tanh], name=name)
