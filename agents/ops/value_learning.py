"""The equations of Ape-X (Horgan et al. 2018, arXiv 1803.00933) and R2D2 (Kapturowski et al., ICLR 2019): pure functions.

Index t of a reward or discount is that of types.py: it ARRIVED with x_t. So the transition from x_t to x_{t+1} has the reward
at t+1, the discount at t+1, and is `real` unless x_{t+1} opens a new game. Not here: losses (agents/), sampling
(mlma/replay/prioritized_replay.py).
"""

from __future__ import annotations

import tensorflow as tf

RESCALING_EPSILON = 1e-3  # of the value rescaling: keeps its inverse Lipschitz


def epsilon_ladder(places: tf.Tensor, count: int, base: float, exponent: float) -> tf.Tensor:
    """How often each of N = `count` environments acts at random: epsilon_i = base^(1 + i * exponent / (N - 1)). Section 4.1."""
    share = tf.cast(places, tf.float32) / max(1, count - 1)
    return tf.pow(base, 1.0 + exponent * share)


def signed_hyperbolic(x: tf.Tensor) -> tf.Tensor:
    """h(x) of R2D2, section 2.3: large returns look small."""
    return tf.sign(x) * (tf.sqrt(tf.abs(x) + 1.0) - 1.0) + RESCALING_EPSILON * x


def signed_parabolic(x: tf.Tensor) -> tf.Tensor:
    """h^-1(x). The closed form (sqrt(1 + 4e(|x| + 1 + e)) - 1) / 2e subtracts two nearly equal numbers; this is the same number
    with the difference multiplied out, which float32 can do."""
    y = tf.abs(x) + 1.0 + RESCALING_EPSILON
    root = 2.0 * y / (tf.sqrt(1.0 + 4.0 * RESCALING_EPSILON * y) + 1.0)
    return tf.sign(x) * (tf.square(root) - 1.0)


def double_q(online: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """The target network's value of the action that the online network would take: [..., A] twice -> [...]."""
    return tf.gather(target, tf.argmax(online, axis=-1), axis=-1, batch_dims=target.shape.rank - 1)


def batched_index(q: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """q [..., A] at actions [...] -> [...]."""
    return tf.gather(q, actions, axis=-1, batch_dims=len(actions.shape))


def n_step_bootstrapped_returns(
    rewards: tf.Tensor,  # [T, B], of the transition t -> t+1: arrived at t+1
    discounts: tf.Tensor,  # [T, B], gamma, or 0 where the return ends
    real: tf.Tensor,  # bool [T, B], false where t+1 opens a new game
    values: tf.Tensor,  # [T+1, B], what x_t is worth
    n: int,
) -> tf.Tensor:
    """r_{t+1} + gamma r_{t+2} + .. + gamma^n V(x_{t+n}); shorter where the window or the game ends: [T, B].

    One step of lookahead made n times. A game that was truncated bootstraps from its own last observation: what an unreal
    transition is worth is the value of where it starts.
    """
    targets = values
    for _ in range(n):
        one_step = tf.where(real, rewards + discounts * targets[1:], values[:-1])
        targets = tf.concat([one_step, values[-1:]], axis=0)  # [T+1, B]
    return targets[:-1]


def steps_within_episode(real: tf.Tensor) -> tf.Tensor:
    """How many transitions from step 0 on are of its game: bool [T, B] -> int32 [B]."""
    return tf.reduce_sum(tf.math.cumprod(tf.cast(real, tf.int32), axis=0), axis=0)


def sequence_priorities(errors: tf.Tensor, mask: tf.Tensor, eta: float) -> tf.Tensor:
    """eta max |delta| + (1 - eta) mean |delta| over the masked steps: R2D2, section 2.3. [T, B] twice -> [B]."""
    absolute = tf.abs(errors) * mask
    mean = tf.reduce_sum(absolute, axis=0) / tf.maximum(tf.reduce_sum(mask, axis=0), 1.0)
    return eta * tf.reduce_max(absolute, axis=0) + (1.0 - eta) * mean
