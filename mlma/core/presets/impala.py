"""The preset `fast` of IMPALA. Values: the runs in sandbox/case_studies/. Results: docs/algorithms/impala.md."""

from __future__ import annotations

from mlma.core.presets.common import ATARI, DMLAB, DOOM, PONG_NAMES, Preset, Presets

# V-trace with the clip of PPO and samples that are used three times. The shallow network stops at half the score on
# Breakout that the one of Mnih et al. 2015 reaches: benchmarks/log/2026-11-26.md.
# Deviation: sample reuse with policy clip, lambda and Adam are not the paper's: docs/decisions/0005-pong.md.
IMPALA_IMAGES: Preset = dict(
    total_environment_frames=2e7,
    agent_name="SimpleConvNetAgent",
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
    reward_clipping="none",
)
# The value loss has a small weight, since value and policy share layers and the value errors of these levels reach the
# hundreds.
IMPALA_VECTORS: Preset = dict(
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
    reward_clipping="none",
)
# As in the paper, but without an entropy bonus, since the optimal policy of the corridor is known for the plain return.
# All observations are the same, so values must not bootstrap: trajectories are longer than episodes.
IMPALA_CORRIDOR: Preset = dict(
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
# Its own vector environment steps 64 poles in less than twice the time of 16: docs/benchmarks/throughput.md.
IMPALA_CARTPOLE: Preset = dict(envs_per_actor=64)
IMPALA_TMAZE: Preset = dict(total_environment_frames=2e6, agent_name="MLPLSTMAgent")
# Runs: sandbox/case_studies/pong_recipe.md
IMPALA_PONG: Preset = dict(total_environment_frames=1.2e7, agent_name="ShallowConvNetAgent")
# sandbox/case_studies/doom.md
IMPALA_DOOM: Preset = dict(DOOM, agent_name="ShallowConvNetAgent", batch_size=32, sample_reuse=2, entropy_cost=0.005)
# As in the paper for DMLab-30; where it searched a range, the example settings of the released code.
IMPALA_DMLAB: Preset = dict(
    DMLAB,
    agent_name="ResNetLSTMAgent",
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
)

# Real-valued actions. Samples are used ten times, as PPO does (Schulman et al. 2017, table 3), with its clip. Rewards
# are not clipped, since they have no common scale; values and losses have the unit of the returns' spread.
IMPALA_REAL_ACTIONS: Preset = dict(
    sample_reuse=10,
    vtrace_lambda=0.95,
    policy_clip=0.2,
    entropy_cost=0.0,
    baseline_cost=0.5,
    optimizer="adam",
    learning_rate=0.0003,
    end_learning_rate=0.0,
    epsilon=1e-5,
    gradients_clipping=-1.0,
    discounting=0.99,
    reward_clipping="none",
    normalize_returns="on",
)
IMPALA_REAL_VECTORS: Preset = dict(
    total_environment_frames=1e6,
    agent_name="SeparateMLPAgent",
    envs_per_actor=16,
    batch_size=8,
    unroll_length=32,
    normalize_observations="on",
)
# A short horizon, since the pole is upright within a second or two.
IMPALA_PENDULUM: Preset = dict(total_environment_frames=3e5, learning_rate=0.001, discounting=0.9)
# A far horizon, since a landing takes hundreds of steps: docs/guides/continuous_control.md.
IMPALA_LANDER: Preset = dict(learning_rate=0.001, discounting=0.999, vtrace_lambda=0.98)
# A small spread at the beginning and a short horizon; both as in RL Baselines3 Zoo, hyperparams/ppo.yml.
IMPALA_CHEETAH: Preset = dict(discounting=0.98, vtrace_lambda=0.92, initial_spread=0.14)
# A far horizon, too. What else was tried: sandbox/case_studies/BipedalWalker_v3.md.
IMPALA_WALKER: Preset = dict(
    total_environment_frames=5e6, discounting=0.999, initial_spread=0.4, learning_rate=0.0005, batch_size=16
)

IMPALA = Presets(
    IMPALA_IMAGES,
    IMPALA_VECTORS,
    suites={"atari": ATARI, "doom": IMPALA_DOOM, "dmlab": IMPALA_DMLAB},
    levels={
        "corridor": IMPALA_CORRIDOR,
        "tmaze": IMPALA_TMAZE,
        **dict.fromkeys(("CartPole-v0", "CartPole-v1"), IMPALA_CARTPOLE),
        "Pendulum-v1": IMPALA_PENDULUM,
        "LunarLanderContinuous-v3": IMPALA_LANDER,
        "BipedalWalker-v3": IMPALA_WALKER,
        "HalfCheetah-v5": IMPALA_CHEETAH,
        **dict.fromkeys(PONG_NAMES, IMPALA_PONG),
    },
    real_actions=IMPALA_REAL_ACTIONS,
    real_vectors=IMPALA_REAL_VECTORS,
)
