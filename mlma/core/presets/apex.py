"""The preset `fast` of Ape-X. Results: docs/algorithms/apex.md."""

from __future__ import annotations

from mlma.core.presets.common import ATARI, DMLAB, DOOM, PONG_NAMES, Preset, Presets

# For a night on two cores: a smaller network than the paper's (papers.py), smaller batches, and a higher replay ratio.
APEX_IMAGES: Preset = dict(
    total_environment_frames=2e7,
    agent_name="ShallowConvNetAgent",
    num_stacked_frames=4,
    envs_per_actor=32,
    batch_size=128,
    unroll_length=32,
    replay_capacity=400_000,
    replay_min_fill=20_000,
    replay_ratio=4.0,
    priority_exponent=0.6,
    importance_exponent=0.4,
    n_step=3,
    target_period=1000,
    optimizer="adam",
    learning_rate=0.00025,
    end_learning_rate=0.00005,
    decay=0.95,
    epsilon=1e-5,
    gradients_clipping=40.0,
    discounting=0.99,
    reward_clipping="none",
)
APEX_VECTORS: Preset = dict(
    APEX_IMAGES,
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

APEX = Presets(
    APEX_IMAGES,
    APEX_VECTORS,
    suites={"atari": ATARI, "doom": DOOM, "dmlab": DMLAB},
    levels={
        "tmaze": dict(total_environment_frames=2e5),
        **{name: dict(total_environment_frames=1e7) for name in PONG_NAMES},
    },
)
