"""The optimizer, its learning rate schedule, and gradient clipping."""

from __future__ import annotations

from typing import Any

import sonnet as snt
import tensorflow as tf

from mlma.core.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig, learning_rate: tf.Variable) -> Any:
    """The Sonnet optimizer of `--optimizer`."""
    if config.optimizer == "adam":
        return snt.optimizers.Adam(learning_rate, beta1=config.momentum or 0.9, epsilon=config.epsilon)
    centered = config.optimizer == "rmsprop_centered"
    return snt.optimizers.RMSProp(learning_rate, config.decay, config.momentum, config.epsilon, centered=centered)


def start_slots(optimizer: Any, slots: list[tf.Variable], config: OptimizerConfig) -> None:
    """Sets the optimizer's slots to their initial values: zero, and `--initial_mean_square` for that of RMSProp."""
    for slot in slots:
        slot.assign(tf.zeros_like(slot))
    if isinstance(optimizer, snt.optimizers.RMSProp):
        for mean_square in optimizer.ms:
            mean_square.assign(tf.constant(config.initial_mean_square, mean_square.dtype, mean_square.shape))


def clip_gradients(gradients: list[tf.Tensor], norm: float) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Gradients scaled to a global norm of at most `norm` (-1: unchanged), and their norm before."""
    before = tf.linalg.global_norm(gradients)
    if norm < 0:
        return gradients, before
    return tf.clip_by_global_norm(gradients, norm, use_norm=before)[0], before


def decayed_learning_rate(config: OptimizerConfig, progress: float, num_learners: int) -> float:
    """Linear from learning_rate to end_learning_rate while `progress` goes from 0 to 1; scaled with the number of
    learners."""
    left = max(0.0, 1.0 - progress)
    scale = {"none": 1.0, "linear": float(num_learners), "sqrt": num_learners**0.5}[config.learning_rate_scaling]
    return scale * (config.end_learning_rate + (config.learning_rate - config.end_learning_rate) * left)
