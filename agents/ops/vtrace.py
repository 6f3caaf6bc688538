"""V-trace targets: Espeholt et al. 2018, "IMPALA", section 4.1 (arXiv 1802.01561). Pure functions.

Names and arguments are those of the published reference implementation. Not here: the loss and the masking of
transitions between episodes (agents/impala.py); here a return ends only where the discount is 0.
"""

from __future__ import annotations

from typing import NamedTuple

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


def log_probs_from_logits_and_actions(policy_logits: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """log pi(a|x) [...] from logits [..., A] and actions int [...]."""
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=actions, logits=policy_logits)


def from_logits(
    behaviour_policy_logits: tf.Tensor,  # [T, B, A]
    target_policy_logits: tf.Tensor,  # [T, B, A]
    actions: tf.Tensor,  # int [T, B]
    discounts: tf.Tensor,  # [T, B]
    rewards: tf.Tensor,  # [T, B]
    values: tf.Tensor,  # [T, B]
    bootstrap_value: tf.Tensor,  # [B]
    clip_rho_threshold: float | None = 1.0,
    clip_pg_rho_threshold: float | None = 1.0,
    lambda_: float = 1.0,
) -> VTraceFromLogitsReturns:
    """V-trace targets for softmax policies, given by their logits."""
    behaviour_log_probs = log_probs_from_logits_and_actions(behaviour_policy_logits, actions)
    target_log_probs = log_probs_from_logits_and_actions(target_policy_logits, actions)
    log_rhos = target_log_probs - behaviour_log_probs
    vs, pg_advantages = from_importance_weights(
        log_rhos, discounts, rewards, values, bootstrap_value, clip_rho_threshold, clip_pg_rho_threshold, lambda_
    )
    return VTraceFromLogitsReturns(vs, pg_advantages, log_rhos, behaviour_log_probs, target_log_probs)


def from_importance_weights(
    log_rhos: tf.Tensor,  # [T, B, ...], log pi(a_t|x_t) - log mu(a_t|x_t)
    discounts: tf.Tensor,  # [T, B, ...], gamma_t; 0 where the episode ended
    rewards: tf.Tensor,  # [T, B, ...], r_t, the reward for a_t
    values: tf.Tensor,  # [T, B, ...], V(x_t)
    bootstrap_value: tf.Tensor,  # [B, ...], V(x_T)
    clip_rho_threshold: float | None = 1.0,
    clip_pg_rho_threshold: float | None = 1.0,
    lambda_: float = 1.0,
) -> VTraceReturns:
    """V-trace targets from log importance weights. No gradient flows through them."""
    for name, threshold in (
        ("clip_rho_threshold", clip_rho_threshold),
        ("clip_pg_rho_threshold", clip_pg_rho_threshold),
    ):
        if threshold is not None and threshold < 0:
            raise ValueError(f"{name}={threshold}: must be None or at least 0")
    log_rhos.shape.assert_is_compatible_with(values.shape)
    bootstrap_value.shape.assert_is_compatible_with(values.shape[1:])

    rhos = tf.exp(log_rhos)
    clipped_rhos = rhos if clip_rho_threshold is None else tf.minimum(clip_rho_threshold, rhos)
    cs = lambda_ * tf.minimum(tf.ones_like(rhos), rhos)  # c_t, c_bar = 1
    next_values = tf.concat([values[1:], bootstrap_value[tf.newaxis]], axis=0)  # V(x_{t+1})
    deltas = clipped_rhos * (rewards + discounts * next_values - values)  # delta_t V, below eq. (1)

    # Remark 1: v_s - V(x_s) = delta_s V + gamma_s c_s (v_{s+1} - V(x_{s+1})), backwards in time.
    # A Python loop over the static T instead of tf.scan, whose while loop dispatches every operation at each step.
    acc = tf.zeros_like(bootstrap_value)
    vs_minus_v_xs = []
    for delta, decay in zip(reversed(tf.unstack(deltas)), reversed(tf.unstack(discounts * cs)), strict=True):
        acc = delta + decay * acc
        vs_minus_v_xs.append(acc)
    vs_minus_v_xs = tf.stack(vs_minus_v_xs[::-1])  # [T, B]
    vs = vs_minus_v_xs + values

    # The policy gradient of section 4.2 uses q_s = r_s + gamma_s v_{s+1}.
    next_vs = tf.concat([vs[1:], bootstrap_value[tf.newaxis]], axis=0)
    pg_rhos = rhos if clip_pg_rho_threshold is None else tf.minimum(clip_pg_rho_threshold, rhos)
    pg_advantages = pg_rhos * (rewards + discounts * next_vs - values)
    return VTraceReturns(tf.stop_gradient(vs), tf.stop_gradient(pg_advantages))
