"""Equations of Ape-X (Horgan et al. 2018, arXiv 1803.00933) and R2D2 (Kapturowski et al., ICLR 2019). Pure functions.

Alignment as in mlma/core/types.py: the reward and the discount at index t ARRIVED with x_t. So the transition from x_t
to x_{t+1} has the reward and the discount at t+1, and it is valid unless x_{t+1} starts a new episode. Not here: losses
(agents/apex.py, agents/r2d2.py), sampling (mlma/replay/prioritized_replay.py).
"""

from __future__ import annotations

import tensorflow as tf

RESCALING_EPSILON = 1e-3  # weight of the linear term of h(x), which keeps the inverse Lipschitz continuous


def epsilon_ladder(env_indices: tf.Tensor, num_envs: int, base: float, exponent: float) -> tf.Tensor:
    """epsilon_i = base^(1 + exponent * i / (N - 1)) of environments i, N = `num_envs`: Horgan et al., section 4.1.

    Deviation: in the paper each actor has an epsilon, here each environment does, since an actor steps many
    environments.
    """
    fraction = tf.cast(env_indices, tf.float32) / max(1, num_envs - 1)
    return tf.pow(base, 1.0 + exponent * fraction)


def signed_hyperbolic(x: tf.Tensor) -> tf.Tensor:
    """The value rescaling h(x), which compresses large returns: R2D2, section 2.3."""
    return tf.sign(x) * (tf.sqrt(tf.abs(x) + 1.0) - 1.0) + RESCALING_EPSILON * x


def signed_parabolic(x: tf.Tensor) -> tf.Tensor:
    """h^-1(x).

    The closed form (sqrt(1 + 4e(|x| + 1 + e)) - 1) / 2e subtracts two nearly equal numbers. This is the same number,
    with the fraction extended by the sum of the two, which is accurate in float32.
    """
    y = tf.abs(x) + 1.0 + RESCALING_EPSILON
    root = 2.0 * y / (tf.sqrt(1.0 + 4.0 * RESCALING_EPSILON * y) + 1.0)
    return tf.sign(x) * (tf.square(root) - 1.0)


def double_q(online: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """The target network's value of the online network's greedy action: q-values [..., A] of both -> [...]."""
    return tf.gather(target, tf.argmax(online, axis=-1), axis=-1, batch_dims=target.shape.rank - 1)


def batched_index(q: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """q [..., A] at actions [...] -> [...]."""
    return tf.gather(q, actions, axis=-1, batch_dims=len(actions.shape))


def n_step_bootstrapped_returns(
    rewards: tf.Tensor,  # [T, B], r_{t+1}, of the transition from x_t to x_{t+1}
    discounts: tf.Tensor,  # [T, B], gamma, or 0 where the return ends
    valid_mask: tf.Tensor,  # bool [T, B], false where x_{t+1} starts a new episode
    values: tf.Tensor,  # [T+1, B], V(x_t)
    n: int,
) -> tf.Tensor:
    """r_{t+1} + gamma r_{t+2} + .. + gamma^n V(x_{t+n}), with fewer steps where the window or the episode ends: [T, B].

    Applies the one-step lookahead n times. The value of an invalid transition is that of the observation it starts
    from, so a truncated episode bootstraps from its own last observation.
    """
    targets = values
    for _ in range(n):
        one_step = tf.where(valid_mask, rewards + discounts * targets[1:], values[:-1])
        targets = tf.concat([one_step, values[-1:]], axis=0)  # [T+1, B]
    return targets[:-1]


def steps_within_episode(valid_mask: tf.Tensor) -> tf.Tensor:
    """Number of transitions from step 0 to the end of its episode, or of the window: bool [T, B] -> int32 [B]."""
    return tf.reduce_sum(tf.math.cumprod(tf.cast(valid_mask, tf.int32), axis=0), axis=0)


def sequence_priorities(td_errors: tf.Tensor, mask: tf.Tensor, eta: float) -> tf.Tensor:
    """eta max |delta| + (1 - eta) mean |delta| over the masked steps, [T, B] both -> [B]: R2D2, section 2.3."""
    absolute = tf.abs(td_errors) * mask
    mean = tf.reduce_sum(absolute, axis=0) / tf.maximum(tf.reduce_sum(mask, axis=0), 1.0)
    return eta * tf.reduce_max(absolute, axis=0) + (1.0 - eta) * mean
