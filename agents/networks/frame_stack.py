"""Frame stacking inside the network: single frames travel, stacks are rebuilt here. Mnih et al. 2015."""

from __future__ import annotations

import tensorflow as tf


def stack_frames(observation: tf.Tensor, first: tf.Tensor, before: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Stacks of k frames, oldest channel first, with zeros for what was before the start of the game.

    observation uint8 [T, B, H, W, C], first bool [T, B], before uint8 [B, k-1, H, W, C] -> [T, B, H, W, C * k] and the new
    `before`.
    """
    steps, depth = observation.shape[0], before.shape[1]
    earlier = tf.stack(
        tf.unstack(before, axis=1)
    )  # [k-1, B, H, W, C]; not transpose, which has no fast kernel for bytes
    frames = tf.concat([earlier, observation], axis=0)  # [k-1+T, B, H, W, C]
    # What is j frames old at step t is of the same game if none of the steps t-j+1 .. t is a first one. Before step 0 that
    # was settled when `before` was made.
    keep = tf.cast(tf.logical_not(first), tf.uint8)[..., tf.newaxis, tf.newaxis, tf.newaxis]  # [T, B, 1, 1, 1]
    same_game = [tf.ones_like(keep)]  # by age
    for _ in range(depth):
        same_game.append(keep * tf.concat([tf.ones_like(keep[:1]), same_game[-1][:-1]], axis=0))
    after = tf.stack(
        [frames[-1 - age] * same_game[age][-1] for age in range(depth - 1, -1, -1)], axis=1
    )  # [B, k-1, H, W, C]

    if observation.shape[-1] == 1 and depth in PACKED_INTEGERS:
        return _pack_stack(frames[..., 0], [same[..., 0] for same in same_game], steps, PACKED_INTEGERS[depth]), after
    planes = [frames[depth - age : depth - age + steps] * same_game[age] for age in range(depth, -1, -1)]
    return tf.concat(planes, axis=-1), after  # [T, B, H, W, C * k]


PACKED_INTEGERS = {1: tf.uint16, 3: tf.uint32}  # the integer that holds k bytes, by k - 1


def _pack_stack(frames: tf.Tensor, same_game: list[tf.Tensor], steps: int, integer: tf.DType) -> tf.Tensor:
    """The stack as the bytes of one integer per pixel, lowest first: arithmetic that runs in whole vectors.

    Joining the frames byte by byte takes six times as long, as long as the convolutions: docs/performance.md.
    """
    depth = len(same_game) - 1
    wide = tf.cast(frames, integer)  # [k-1+T, B, H, W]
    pixels = [
        wide[depth - age : depth - age + steps] * (tf.cast(same_game[age], integer) * 256 ** (depth - age))
        for age in range(depth + 1)
    ]
    return tf.bitcast(tf.add_n(pixels), tf.uint8)  # [T, B, H, W, k]
