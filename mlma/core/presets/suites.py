"""Preset values shared by all algorithms for one suite or level."""

from __future__ import annotations

from typing import Any

PONG_NAMES = ("PongNoFrameskip-v4", "atari_pong", "ALE/Pong-v5")
# Rewards of VizDoom's levels are about 1 as they come (mlma.envs.suites.doom.SCENARIOS); one frame tells what is seen.
DOOM: dict[str, Any] = dict(num_stacked_frames=1, reward_clipping="none", total_environment_frames=1e7)
# What does not depend on the algorithm, but on what it looks at.
OBSERVATION_FIELDS = ("num_stacked_frames", "reward_clipping", "total_environment_frames")
