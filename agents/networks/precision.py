"""Layers that compute in the type of their input, float32 or bfloat16, from weights in float32.

Convolutions and linear layers in bfloat16 accumulate in float32 on processors and GPUs that have the type; only
inputs, weights and outputs are rounded. Their names are Sonnet's, since checkpoints hold the names of variables. Not
here: which type a process uses (mlma/core/precision.py).
"""

from __future__ import annotations

import sonnet as snt
import tensorflow as tf


class Conv2D(snt.Conv2D):
    """See the module docstring."""

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        """[N, H, W, C] -> [N, H', W', C'], of the type of `inputs`."""
        if inputs.dtype == tf.float32:
            return super().__call__(inputs)
        self._initialize(tf.TensorSpec(inputs.shape, tf.float32))
        weights = tf.cast(self.w, inputs.dtype)
        outputs = tf.nn.convolution(inputs, weights, strides=self.stride, padding=self.conv_padding)
        return tf.nn.bias_add(outputs, tf.cast(self.b, inputs.dtype)) if self.with_bias else outputs


class Linear(snt.Linear):
    """See the module docstring."""

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        """[N, inputs] -> [N, outputs], of the type of `inputs`."""
        if inputs.dtype == tf.float32:
            return super().__call__(inputs)
        self._initialize(tf.TensorSpec(inputs.shape, tf.float32))
        outputs = tf.matmul(inputs, tf.cast(self.w, inputs.dtype))
        return tf.nn.bias_add(outputs, tf.cast(self.b, inputs.dtype)) if self.with_bias else outputs


class Bias(snt.Bias):
    """See the module docstring."""

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        """[N, H, W, C], of the type of `inputs`."""
        if inputs.dtype == tf.float32:
            return super().__call__(inputs)
        self._initialize(tf.TensorSpec(inputs.shape, tf.float32))
        return tf.nn.bias_add(inputs, tf.cast(self.b, inputs.dtype))
