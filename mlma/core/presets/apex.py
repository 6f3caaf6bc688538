"""Presets of Ape-X."""

from __future__ import annotations

from typing import Any

from mlma.core.presets.suites import PONG_NAMES

# Ape-X as in its paper (section 4.1, appendix C), but for the number of actors, and for the ratio, which came of theirs.
APEX_IMAGES: dict[str, Any] = dict(
    total_environment_frames=2e8,
    agent_name="ConvNetAgent",
    num_stacked_frames=4,
    envs_per_actor=32,
    batch_size=512,
    unroll_length=64,
    replay_capacity=2_000_000,
    replay_min_fill=50_000,
    replay_ratio=0.8,
    priority_exponent=0.6,
    importance_exponent=0.4,
    n_step=3,
    target_period=2500,
    optimizer="rmsprop_centered",
    learning_rate=0.00025 / 4,
    end_learning_rate=0.00025 / 4,
    decay=0.95,
    epsilon=1.5e-7,
    gradients_clipping=40.0,
    discounting=0.99,
    reward_clipping="abs_one",
)
APEX_VECTORS: dict[str, Any] = APEX_IMAGES | dict(
    total_environment_frames=5e5,
    agent_name="MLPAgent",
    num_stacked_frames=1,
    envs_per_actor=16,
    batch_size=64,
    unroll_length=16,
    replay_capacity=500_000,
    replay_min_fill=2_000,
    replay_ratio=4.0,
    target_period=100,
    optimizer="adam",
    learning_rate=0.001,
    end_learning_rate=0.0,
    epsilon=1e-5,
    gradients_clipping=10.0,
)
# What two cores can play and learn in an hour: a smaller network, samples used more often.
APEX_PONG: dict[str, Any] = dict(
    total_environment_frames=1e7,
    agent_name="ShallowConvNetAgent",
    batch_size=128,
    unroll_length=32,
    replay_capacity=400_000,
    replay_min_fill=20_000,
    replay_ratio=4.0,
    target_period=1000,
    optimizer="adam",
    learning_rate=0.00025,
    end_learning_rate=0.00005,
    epsilon=1e-5,
)
APEX_LEVELS = {"tmaze": dict(total_environment_frames=2e5), **{key: APEX_PONG for key in PONG_NAMES}}
