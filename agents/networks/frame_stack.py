"""Frame stacking inside the network: single frames travel, and the stacks are rebuilt here. Mnih et al. 2015.

See docs/decisions/0002-frame-stack-in-agent-state.md.
"""

from __future__ import annotations

import tensorflow as tf

PACKED_INTEGERS = {1: tf.uint16, 3: tf.uint32}  # integer type that holds k bytes, by k - 1


def stack_frames(observation: tf.Tensor, first: tf.Tensor, before: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Stacks of the last k frames, oldest channel first, with zeros for frames before the start of the episode.

    observation uint8 [T, B, H, W, C], first bool [T, B], and the k-1 frames before step 0, uint8 [B, k-1, H, W, C]
    -> stacks [T, B, H, W, C * k] and the new `before`.
    """
    steps, depth = observation.shape[0], before.shape[1]
    # [k-1, B, H, W, C]; not by tf.transpose, which has no fast kernel for bytes
    earlier = tf.stack(tf.unstack(before, axis=1))
    frames = tf.concat([earlier, observation], axis=0)  # [k-1+T, B, H, W, C]
    # The frame of age j at step t is of the same episode if none of the steps t-j+1 .. t is a first one. Frames of
    # `before` that belong to an earlier episode are zeros already.
    keep = tf.cast(tf.logical_not(first), tf.uint8)[..., tf.newaxis, tf.newaxis, tf.newaxis]  # [T, B, 1, 1, 1]
    same_episode = [tf.ones_like(keep)]  # by age
    for _ in range(depth):
        same_episode.append(keep * tf.concat([tf.ones_like(keep[:1]), same_episode[-1][:-1]], axis=0))
    newest = [frames[-1 - age] * same_episode[age][-1] for age in range(depth - 1, -1, -1)]
    after = tf.stack(newest, axis=1)  # [B, k-1, H, W, C]

    if observation.shape[-1] == 1 and depth in PACKED_INTEGERS:
        masks = [mask[..., 0] for mask in same_episode]
        return _pack_stack(frames[..., 0], masks, steps, PACKED_INTEGERS[depth]), after
    planes = [frames[depth - age : depth - age + steps] * same_episode[age] for age in range(depth, -1, -1)]
    return tf.concat(planes, axis=-1), after  # [T, B, H, W, C * k]


def _pack_stack(frames: tf.Tensor, same_episode: list[tf.Tensor], steps: int, integer: tf.DType) -> tf.Tensor:
    """The stack as the bytes of one integer per pixel, lowest byte first, so that the arithmetic is vectorised.

    Concatenating single bytes takes six times as long, which is as long as the convolutions.
    """
    depth = len(same_episode) - 1
    wide = tf.cast(frames, integer)  # [k-1+T, B, H, W]
    pixels = [
        wide[depth - age : depth - age + steps] * (tf.cast(same_episode[age], integer) * 256 ** (depth - age))
        for age in range(depth + 1)
    ]
    return tf.bitcast(tf.add_n(pixels), tf.uint8)  # [T, B, H, W, k]
