"""PopArt: values normalised by level. Hessel et al. 2018 (arXiv 1809.04474), sections 3 and 4; van Hasselt et al. 2016.

A level's values are learned in units of the mean and the spread of its own returns, so that one network can learn levels whose
rewards differ by a thousand. When these two move, the last layer moves against them: what it says stays the same. Not here: who
collects the returns of all learners (mlma/learning/learner.py).
"""

from __future__ import annotations

from typing import Any

import sonnet as snt
import tensorflow as tf

STATISTICS_STEP_SIZE = 3e-4  # of the statistics; section 5
MIN_SCALE, MAX_SCALE = 1e-4, 1e6  # spread; section 5


class PopArt(snt.Linear):
    """The value head: an output for each level, in units of its own returns; plain and shared with 0 levels."""

    def __init__(self, levels: int, name: str | None = None) -> None:
        super().__init__(max(1, levels), name=name)
        self._levels = levels
        if levels:
            self._mean = tf.Variable(tf.zeros([levels]), trainable=False, name="mean")
            self._square = tf.Variable(tf.ones([levels]), trainable=False, name="square")  # second moment

    def values(self, features: tf.Tensor, level: tf.Tensor | None) -> tf.Tensor:
        """[T, B, F] and [T, B] -> [T, B], in units of the rewards."""
        outputs = snt.BatchApply(self)(features)  # [T, B, L]
        if not self._levels:
            return tf.squeeze(outputs, axis=-1)
        values = self._spread() * outputs + self._mean
        return values[..., 0] if level is None else tf.reduce_sum(values * tf.one_hot(level, self._levels), axis=-1)

    def _spread(self) -> tf.Tensor:
        variance = tf.maximum(self._square - tf.square(self._mean), 0.0)
        return tf.clip_by_value(tf.sqrt(variance), MIN_SCALE, MAX_SCALE)

    def scale(self, level: tf.Tensor | None) -> Any:
        """The spread that values of this level are learned in: [T, B], or 1."""
        if not self._levels:
            return 1.0
        return self._spread()[0] if level is None else tf.gather(self._spread(), level)

    def batch_statistics(self, returns: tf.Tensor, weights: tf.Tensor, level: tf.Tensor | None) -> tf.Tensor:
        """What `normalise` wants to know of a sample: float32 [3 L], how many, their sum, the sum of their squares."""
        if not self._levels:
            return tf.zeros([0])
        level = tf.zeros_like(returns, tf.int32) if level is None else level
        weight = tf.one_hot(level, self._levels) * weights[..., tf.newaxis]  # [T, B, L]
        sums = [tf.reduce_sum(weight * (returns**power)[..., tf.newaxis], axis=[0, 1]) for power in range(3)]
        return tf.concat(sums, axis=0)

    def update(self, statistics: tf.Tensor) -> None:
        """Moves mean and spread of the levels that were played towards their returns, and the layer against it."""
        count, total, squares = tf.split(statistics, 3)
        step = tf.where(count > 0, STATISTICS_STEP_SIZE, 0.0)
        count = tf.maximum(count, 1.0)
        mean, spread = tf.identity(self._mean), self._spread()
        self._mean.assign(mean + step * (total / count - mean))
        self._square.assign(self._square + step * (squares / count - self._square))
        after = self._spread()
        self.w.assign(self.w * spread / after)  # eq. (8)
        self.b.assign((self.b * spread + mean - self._mean) / after)
