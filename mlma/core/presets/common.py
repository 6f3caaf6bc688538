"""The shape of an algorithm's presets, and the values that several algorithms share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

Preset = Mapping[str, Any]  # flag -> value


class Presets(NamedTuple):
    """Presets of one algorithm. Those of a level override those of its suite, which override `images` or `vectors`.

    With real-valued actions, `real_actions` and then `real_vectors` come after the suite's.
    """

    images: Preset  # for levels with image observations
    vectors: Preset  # for levels with vector observations
    suites: Mapping[str, Preset] = {}
    levels: Mapping[str, Preset] = {}
    real_actions: Preset = MappingProxyType({})
    real_vectors: Preset = MappingProxyType({})  # for levels that also have vector observations


PONG_NAMES = ("PongNoFrameskip-v4", "atari_pong", "ALE/Pong-v5")
# Games differ in the scale of their scores; all other rewards are learned as they are, unless a preset says otherwise.
ATARI: Preset = dict(reward_clipping="abs_one")
# mlma/envs/suites/doom.py scales rewards to about 1, and a single frame shows everything that is visible.
DOOM: Preset = dict(num_stacked_frames=1, total_environment_frames=1e7)
# Settings for DeepMind Lab that are the same for all algorithms.
DMLAB: Preset = dict(
    num_stacked_frames=1, reward_clipping="soft_asymmetric", total_environment_frames=1e9, envs_per_actor=4
)
