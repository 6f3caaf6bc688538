"""Running normalisation of observations that are numbers: by mean and variance of all data so far.

The statistics are variables of the network without a gradient. As those of PopArt, they are summed over the samples of
all learners in each learner step, saved in checkpoints, and sent to actors with the weights. Samples that are used
several times count as often. Not here: who sums and sends (mlma/learning/learner.py, mlma/core/flat_weights.py).
"""

from __future__ import annotations

import sonnet as snt
import tensorflow as tf

MIN_VARIANCE = 1e-8
MAX_NORMALIZED = 10.0  # larger numbers are cut off


class Normalizer(snt.Module):
    """Subtracts the mean of each of D numbers and divides by its standard deviation; at first 0 and 1."""

    def __init__(self, size: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self._size = size
        self._count = tf.Variable(0.0, trainable=False, name="count")
        self._mean = tf.Variable(tf.zeros([size]), trainable=False, name="mean")
        self._variance = tf.Variable(tf.ones([size]), trainable=False, name="variance")
        self.num_statistics = 1 + 2 * size

    def __call__(self, numbers: tf.Tensor) -> tf.Tensor:
        """[..., D] -> [..., D]."""
        normalized = (numbers - self._mean) * tf.math.rsqrt(tf.maximum(self._variance, MIN_VARIANCE))
        return tf.clip_by_value(normalized, -MAX_NORMALIZED, MAX_NORMALIZED)

    def batch_statistics(self, numbers: tf.Tensor) -> tf.Tensor:
        """Sums for `update`, float32 [1 + 2 D]: the count, and the deviations from the mean and their squares.

        All learners have the same mean, so that the sums of all can be added. Sums of the numbers themselves would lose
        the variance of numbers that are far from 0.
        """
        deviations = tf.reshape(numbers, [-1, self._size]) - self._mean
        count = tf.cast(tf.shape(deviations)[:1], tf.float32)
        return tf.concat([count, tf.reduce_sum(deviations, 0), tf.reduce_sum(tf.square(deviations), 0)], axis=0)

    def update(self, statistics: tf.Tensor) -> None:
        """Adds data, of which `statistics` is the sum of `batch_statistics` over all learners.

        A learner without a sample adds zeros. Without any data, nothing changes.
        """
        count, deviations, squares = tf.split(statistics, [1, self._size, self._size])
        total = self._count + count[0]
        shift = tf.math.divide_no_nan(deviations, total)
        mean_square = (self._count * self._variance + squares) / tf.maximum(total, 1.0)
        variance = tf.maximum(mean_square - tf.square(shift), 0.0)
        self._variance.assign(tf.where(count > 0, variance, self._variance))
        self._mean.assign_add(shift)
        self._count.assign(total)
