"""V-trace targets: Espeholt et al. 2018, "IMPALA", section 4.1 (arXiv 1802.01561). Pure functions.

Names and arguments are those of the published reference implementation, and so are the inputs that are accepted: numpy
arrays as well as tensors, sizes that are not known before the graph runs, and importance weights, discounts and rewards
that broadcast to the shape of the values. Not here: the loss and the masking of transitions between episodes
(agents/impala.py); here a return ends only where the discount is 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


class VTraceReturns(NamedTuple):
    """Targets of V-trace."""

    vs: tf.Tensor  # float [T, B, ...], targets for the value
    pg_advantages: tf.Tensor  # float [T, B, ...], for the policy gradient


class VTraceFromLogitsReturns(NamedTuple):
    """Targets of V-trace, and the log probabilities they come from."""

    vs: tf.Tensor  # float [T, B]
    pg_advantages: tf.Tensor  # float [T, B]
    log_rhos: tf.Tensor  # float [T, B]
    behaviour_action_log_probs: tf.Tensor  # float [T, B]
    target_action_log_probs: tf.Tensor  # float [T, B]


def log_probs_from_logits_and_actions(policy_logits: Any, actions: Any) -> tf.Tensor:
    """log pi(a|x) [...] from logits [..., A] and actions int [...]."""
    (policy_logits,) = _float_tensors(policy_logits)
    actions = actions if tf.is_tensor(actions) else tf.constant(actions, tf.int32)
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=actions, logits=policy_logits)


def from_logits(
    behaviour_policy_logits: Any,  # [T, B, A]
    target_policy_logits: Any,  # [T, B, A]
    actions: Any,  # int [T, B]
    discounts: Any,  # [T, B]
    rewards: Any,  # [T, B]
    values: Any,  # [T, B]
    bootstrap_value: Any,  # [B]
    clip_rho_threshold: Any = 1.0,  # a number, or None: not clipped
    clip_pg_rho_threshold: Any = 1.0,
    lambda_: float = 1.0,
) -> VTraceFromLogitsReturns:
    """V-trace targets for softmax policies, given by their logits."""
    behaviour_policy_logits, target_policy_logits = _float_tensors(behaviour_policy_logits, target_policy_logits)
    behaviour_log_probs = log_probs_from_logits_and_actions(behaviour_policy_logits, actions)
    target_log_probs = log_probs_from_logits_and_actions(target_policy_logits, actions)
    log_rhos = target_log_probs - behaviour_log_probs
    vs, pg_advantages = from_importance_weights(
        log_rhos, discounts, rewards, values, bootstrap_value, clip_rho_threshold, clip_pg_rho_threshold, lambda_
    )
    return VTraceFromLogitsReturns(vs, pg_advantages, log_rhos, behaviour_log_probs, target_log_probs)


def from_importance_weights(
    log_rhos: Any,  # [T, B, ...], log pi(a_t|x_t) - log mu(a_t|x_t)
    discounts: Any,  # [T, B, ...], gamma_t; 0 where the episode ended
    rewards: Any,  # [T, B, ...], r_t, the reward for a_t
    values: Any,  # [T, B, ...], V(x_t)
    bootstrap_value: Any,  # [B, ...], V(x_T)
    clip_rho_threshold: Any = 1.0,  # a number, or None: not clipped
    clip_pg_rho_threshold: Any = 1.0,
    lambda_: float = 1.0,
) -> VTraceReturns:
    """V-trace targets from log importance weights. No gradient flows through them."""
    log_rhos, discounts, rewards, values, bootstrap_value = _float_tensors(
        log_rhos, discounts, rewards, values, bootstrap_value
    )
    _check_shapes(values.shape, bootstrap_value.shape, log_rhos=log_rhos, discounts=discounts, rewards=rewards)
    _check_thresholds(clip_rho_threshold=clip_rho_threshold, clip_pg_rho_threshold=clip_pg_rho_threshold)

    rhos = tf.exp(log_rhos)
    clipped_rhos = _clip(rhos, clip_rho_threshold)
    cs = lambda_ * tf.minimum(tf.ones_like(rhos), rhos)  # c_t, c_bar = 1
    next_values = tf.concat([values[1:], bootstrap_value[tf.newaxis]], axis=0)  # V(x_{t+1})
    deltas = clipped_rhos * (rewards + discounts * next_values - values)  # delta_t V, below eq. (1)
    vs = _accumulate(deltas, discounts * cs, tf.zeros_like(bootstrap_value)) + values

    # The policy gradient of section 4.2 uses q_s = r_s + gamma_s v_{s+1}.
    next_vs = tf.concat([vs[1:], bootstrap_value[tf.newaxis]], axis=0)
    pg_advantages = _clip(rhos, clip_pg_rho_threshold) * (rewards + discounts * next_vs - values)
    return VTraceReturns(tf.stop_gradient(vs), tf.stop_gradient(pg_advantages))


def _accumulate(deltas: tf.Tensor, decays: tf.Tensor, acc: tf.Tensor) -> tf.Tensor:
    """v_s - V(x_s) of remark 1: delta_s V + gamma_s c_s (v_{s+1} - V(x_{s+1})), backwards in time.

    A Python loop over T where T is known before the graph runs, instead of tf.scan, whose while loop dispatches every
    operation at each step.
    """
    steps = deltas.shape[0]
    if steps is None:

        def step(acc: tf.Tensor, at: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            return tf.ensure_shape(at[0] + at[1] * acc, acc.shape)

        return tf.scan(step, (deltas, decays), acc, reverse=True)
    vs_minus_v_xs = []
    for delta, decay in zip(reversed(tf.unstack(deltas, steps)), reversed(tf.unstack(decays, steps)), strict=True):
        acc = delta + decay * acc
        vs_minus_v_xs.append(acc)
    return tf.stack(vs_minus_v_xs[::-1])  # [T, B]


def _float_tensors(*arrays: Any) -> list[tf.Tensor]:
    """Tensors stay as they are. Anything else gets the type of the first tensor, or float32 if there is none."""
    dtype = next((array.dtype for array in arrays if tf.is_tensor(array)), tf.float32)
    return [tf.convert_to_tensor(array, dtype) for array in arrays]


def _clip(rhos: tf.Tensor, threshold: Any) -> tf.Tensor:
    return rhos if threshold is None else tf.minimum(tf.convert_to_tensor(threshold, rhos.dtype), rhos)


def _check_thresholds(**thresholds: Any) -> None:
    for name, threshold in thresholds.items():
        if threshold is not None:
            tensor = tf.convert_to_tensor(threshold)
            tensor.shape.assert_has_rank(0)
            value = tf.get_static_value(tensor)
            if value is not None and value < 0:
                raise ValueError(f"{name}={threshold}: must be None or at least 0")


def _check_shapes(values: tf.TensorShape, bootstrap_value: tf.TensorShape, **others: tf.Tensor) -> None:
    """ValueError unless `others` broadcast to the values along all axes but time, and the bootstrap value continues."""
    if values.rank is not None:
        bootstrap_value.assert_has_rank(values.rank - 1)
    bootstrap_value.assert_is_compatible_with(values[1:])
    for name, tensor in others.items():
        if values.rank is not None:
            tensor.shape.assert_has_rank(values.rank)
        if not tensor.shape[:1].is_compatible_with(values[:1]):
            raise ValueError(f"{name} has {tensor.shape[0]} steps, the values have {values[0]}")
        tf.broadcast_static_shape(tensor.shape, values).assert_is_compatible_with(values)
