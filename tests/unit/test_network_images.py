"""How networks see images: stacked frames and the scaling of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.networks.frame_stack import stack_frames
from agents.networks.network import scale_pixels


def slow_stacks(observation: Any, first: Any, depth: int) -> Any:
    """Frame stacks from one list of frames per episode: slow and obvious."""
    steps, batch, *_, channels = observation.shape
    stacks = np.zeros((*observation.shape[:-1], channels * depth), np.uint8)
    for b in range(batch):
        episode: list[Any] = []
        for t in range(steps):
            episode = [] if first[t, b] else episode
            episode.append(observation[t, b])
            latest = episode[-depth:]
            stacks[t, b, ..., channels * (depth - len(latest)) :] = np.concatenate(latest, axis=-1)
    return stacks


@pytest.mark.parametrize(("depth", "channels"), [(2, 1), (4, 1), (4, 3)])
def test_stacks_hold_the_last_frames_of_their_own_episode_however_the_calls_are_split(
    depth: int, channels: int
) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        observation = rng.integers(1, 256, size=(14, 6, 2, 3, channels)).astype(np.uint8)
        first = rng.random((14, 6)) < 0.25
        expected = slow_stacks(observation, first, depth)
        before, start = tf.zeros([6, depth - 1, 2, 3, channels], tf.uint8), 0
        for steps in (5, 1, 2, 6):
            call = slice(start, start + steps)
            stacks, before = stack_frames(tf.constant(observation[call]), tf.constant(first[call]), before)
            np.testing.assert_array_equal(stacks, expected[call])
            start += steps


def test_pixels_are_centred_by_stack_or_go_from_0_to_1() -> None:
    pixels = np.random.default_rng(1).integers(256, size=(2, 3, 4, 5, 2)).astype(np.uint8)
    pixels[0, 0, 0, 0] = 0, 255
    unit = scale_pixels(tf.constant(pixels), "unit").numpy()
    assert unit[0, 0, 0, 0].tolist() == [0.0, 1.0]
    np.testing.assert_allclose(unit, pixels / 255, atol=1e-6)
    centered = scale_pixels(tf.constant(pixels), "centered").numpy()
    np.testing.assert_allclose(centered.mean(axis=(2, 3, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(centered[1, 2] * 64, pixels[1, 2] - pixels[1, 2].mean(), atol=1e-4)
