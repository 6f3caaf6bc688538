"""Presets of IMPALA."""

from __future__ import annotations

from typing import Any

from mlma.core.presets.suites import DOOM, PONG_NAMES

# Pong in half an hour: sandbox/case_studies/pong.md, docs/decisions/0005-pong.md.
IMPALA_IMAGES: dict[str, Any] = dict(
    total_environment_frames=2e8,
    agent_name="ShallowConvNetAgent",
    num_stacked_frames=4,
    envs_per_actor=32,
    batch_size=8,
    unroll_length=32,
    sample_reuse=3,
    vtrace_lambda=0.95,
    policy_clip=0.15,
    entropy_cost=0.0015,
    baseline_cost=0.5,
    optimizer="adam",
    learning_rate=0.0004,
    end_learning_rate=0.0,
    decay=0.99,
    epsilon=1e-5,
    gradients_clipping=128.0,
    discounting=0.99,
    reward_clipping="abs_one",
)
# Returns of vector levels go into the hundreds, and so do the errors of the value: it shares its layers with the policy.
IMPALA_VECTORS: dict[str, Any] = dict(
    total_environment_frames=1e6,
    agent_name="MLPAgent",
    num_stacked_frames=1,
    envs_per_actor=16,
    batch_size=16,
    unroll_length=20,
    sample_reuse=3,
    vtrace_lambda=0.95,
    policy_clip=0.2,
    entropy_cost=0.01,
    baseline_cost=0.02,
    optimizer="adam",
    learning_rate=0.001,
    end_learning_rate=0.0,
    decay=0.99,
    epsilon=1e-5,
    gradients_clipping=-1.0,
    discounting=0.99,
    reward_clipping="abs_one",
)
# IMPALA as in its paper, for a level whose answer is known for the undiscounted return without an entropy bonus; a blind value
# function must not bootstrap: trajectories are longer than episodes.
CORRIDOR: dict[str, Any] = dict(
    total_environment_frames=2e6,
    unroll_length=100,
    sample_reuse=1,
    vtrace_lambda=1.0,
    policy_clip=0.0,
    entropy_cost=0.0,
    baseline_cost=0.5,
    optimizer="rmsprop",
    learning_rate=0.0005,
    epsilon=0.01,
    gradients_clipping=40.0,
)
TMAZE = dict(total_environment_frames=2e6, agent_name="MLPLSTMAgent")
IMPALA_LEVELS: dict[str, dict[str, Any]] = {
    "corridor": CORRIDOR,
    "tmaze": TMAZE,
    **{key: dict(total_environment_frames=1.2e7) for key in PONG_NAMES},
}
# sandbox/case_studies/doom.md
IMPALA_DOOM: dict[str, Any] = DOOM | dict(batch_size=32, sample_reuse=2, entropy_cost=0.005)
# IMPALA as in its paper for DMLab-30, with the example settings of its released code where the paper searched a range.
IMPALA_DMLAB: dict[str, Any] = dict(
    total_environment_frames=1e9,
    agent_name="ResNetLSTMAgent",
    num_stacked_frames=1,
    envs_per_actor=4,
    batch_size=32,
    unroll_length=100,
    sample_reuse=1,
    vtrace_lambda=1.0,
    policy_clip=0.0,
    entropy_cost=0.0033391,
    baseline_cost=0.5,
    optimizer="rmsprop",
    learning_rate=0.00031866,
    end_learning_rate=0.0,
    decay=0.99,
    epsilon=0.1,
    gradients_clipping=-1.0,
    reward_clipping="soft_asymmetric",
)
