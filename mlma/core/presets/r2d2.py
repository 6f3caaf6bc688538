"""The preset `fast` of R2D2. Results: docs/algorithms/r2d2.md."""

from __future__ import annotations

from mlma.core.presets.apex import APEX_IMAGES
from mlma.core.presets.common import DMLAB, DOOM, PONG_NAMES, Preset, Presets

# For a night on two cores: a smaller network than the paper's (papers.py), shorter sequences, smaller batches, and a
# higher replay ratio. Sequences start every `unroll_length` steps, so they overlap by half.
R2D2_IMAGES: Preset = dict(
    APEX_IMAGES,
    agent_name="ShallowLSTMAgent",
    batch_size=8,
    unroll_length=20,
    burn_in=20,
    sequence_length=40,
    replay_ratio=3.0,
    priority_exponent=0.9,
    importance_exponent=0.6,
    n_step=5,
    target_period=400,
    epsilon=1e-4,
    discounting=0.997,
)
R2D2_VECTORS: Preset = dict(
    R2D2_IMAGES,
    total_environment_frames=3e5,
    agent_name="MLPLSTMAgent",
    num_stacked_frames=1,
    envs_per_actor=16,
    batch_size=32,
    unroll_length=10,
    burn_in=5,
    sequence_length=20,
    replay_capacity=50_000,
    replay_min_fill=2_000,
    replay_ratio=4.0,
    n_step=3,
    target_period=200,
    learning_rate=0.001,
    end_learning_rate=0.0,
    epsilon=1e-5,
    gradients_clipping=10.0,
    discounting=0.99,
)

R2D2 = Presets(
    R2D2_IMAGES,
    R2D2_VECTORS,
    suites={"doom": DOOM, "dmlab": dict(DMLAB, reward_clipping="none")},
    levels={name: dict(total_environment_frames=1e7) for name in PONG_NAMES},
)
