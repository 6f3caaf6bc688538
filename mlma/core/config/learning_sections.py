"""The flags of learning: learner, replay, optimizer. See mlma/core/config/sections.py."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mlma.core.config.flags import option
from mlma.core.config.limits import (
    A_YEAR,
    MAX_N_STEP,
    MAX_RECURRENT_STEPS,
    MAX_REPLAY_STEPS,
    MAX_STEPS,
    MAX_THREADS,
    MAX_WEIGHT,
)


@dataclasses.dataclass(frozen=True)
class LearnerConfig:
    """Learner."""

    batch_size: int = option(
        0,
        "trajectories per sample of each learner; transitions with apex, sequences with r2d2; 0 takes the preset's "
        "value",
        minimum=0,
        maximum=65_536,
    )
    unroll_length: int = option(0, "steps per trajectory; 0 takes the preset's value", minimum=0, maximum=MAX_STEPS)
    num_stacked_frames: int = option(
        0, "frames that the network sees at once; 0 takes the preset's value", minimum=0, maximum=16
    )
    pixel_scaling: Literal["centered", "unit"] = option(
        "centered",
        "how the network sees images: centered subtracts the mean of the stacked frames and divides by 64; unit "
        "divides by 255, as in the papers, so values are between 0 and 1",
    )
    initializers: Literal["orthogonal", "released"] = option(
        "orthogonal",
        "initial weights: orthogonal is for convolutional networks, with a policy close to uniform; released is as in"
        " the published code of each algorithm",
    )
    sample_reuse: int = option(
        0,
        "how often each trajectory is trained on; 0 takes the preset's value, 1 is the paper's; impala",
        minimum=0,
        maximum=1000,
    )
    queue_capacity: int = option(
        0, "trajectories that the learner's queue can hold; 0 is one batch; impala", minimum=0, maximum=1_000_000
    )
    reward_clipping: str = option(
        "auto",
        "how rewards are clipped before learning: abs_one, soft_asymmetric or none; one for all levels, or one per "
        "level with commas between them; metrics show raw rewards; auto is abs_one for Atari, soft_asymmetric for "
        "DeepMind Lab, and none for all others and with r2d2",
    )
    discounting: float = option(-1.0, "discount factor gamma; -1 takes the preset's value", minimum=-1, maximum=1)
    entropy_cost: float = option(
        -1.0, "weight of the entropy bonus; -1 takes the preset's value; impala", minimum=-1, maximum=MAX_WEIGHT
    )
    baseline_cost: float = option(
        -1.0, "weight of the value loss; -1 takes the preset's value; impala", minimum=-1, maximum=MAX_WEIGHT
    )
    vtrace_lambda: float = option(
        -1.0, "lambda of V-trace; -1 takes the preset's value, 1 is the paper's; impala", minimum=-1, maximum=1
    )
    clip_rho_threshold: float = option(
        1.0,
        "rho_bar of V-trace, which limits the importance ratios in its targets; impala",
        minimum=0,
        maximum=MAX_WEIGHT,
    )
    clip_pg_rho_threshold: float = option(
        1.0, "the same limit for the policy gradient; impala", minimum=0, maximum=MAX_WEIGHT
    )
    policy_clip: float = option(
        -1.0,
        "how far a sample may move the probability of an action away from the behaviour policy's: a ratio minus one, "
        "as in PPO; -1 takes the preset's value, 0 means no limit, as in the paper; impala",
        minimum=-1,
        maximum=MAX_WEIGHT,
    )
    popart: bool = option(False, "PopArt: normalise values and advantages by the returns of each level; impala")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto",
        "number format in which the learner computes convolutions and dense layers for images; weights, losses and "
        "everything else stay float32; auto is bfloat16 if the processor or GPU supports it and a short test at the "
        "start is faster with it",
    )
    jit_compile: bool = option(
        False,
        "compile the loss and its gradient with XLA, for a learner with a GPU; takes seconds to minutes at the first "
        "update, and gains nothing on a CPU",
    )
    normalize_returns: Literal["auto", "on", "off"] = option(
        "auto",
        "normalise values and losses by the mean and the standard deviation of the returns, like popart for a single "
        "level; auto is on for levels with real-valued actions, otherwise as popart; impala",
    )
    normalize_observations: Literal["auto", "on", "off"] = option(
        "auto",
        "normalise the numbers in observations by the mean and the standard deviation of all data so far; auto is on "
        "for levels with real-valued actions and no image; impala",
    )
    action_spread: Literal["parameter", "network"] = option(
        "parameter",
        "where the spread of real-valued actions comes from: parameter learns one for each number, the same in all "
        "states; network computes it in each state; impala",
    )
    initial_spread: float = option(
        1.0,
        "spread of real-valued actions at the start of training, in units in which their bounds are -1 and 1; impala",
        minimum=0.01,
        maximum=7,
    )
    learner_threads: int = option(
        0, "TensorFlow threads of the learner; 0 is all cores", minimum=0, maximum=MAX_THREADS
    )
    gradient_shards: int = option(
        0,
        "shards of a batch that the learner computes in parallel; must divide batch_size; 0 is two per thread, one "
        "per thread with an LSTM, and a single one for vector observations, with apex and with inference=learner; "
        "always 1 on a GPU",
        minimum=0,
        former_names=("learner_parts",),
        maximum=64,
    )
    starvation_warning_seconds: float = option(
        60.0,
        "seconds without a sample after which the learner logs which actors are silent",
        minimum=0.1,
        former_names=("starved_seconds",),
        maximum=A_YEAR,
    )


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Replay: apex and r2d2."""

    replay_capacity: int = option(
        0,
        "steps that the replay of each learner can hold; 0 takes the preset's value",
        minimum=0,
        maximum=MAX_REPLAY_STEPS,
    )
    replay_min_fill: int = option(
        0,
        "steps that the replay of each learner must hold before learning begins; 0 takes the preset's value",
        minimum=0,
        maximum=MAX_REPLAY_STEPS,
    )
    replay_ratio: float = option(
        0.0,
        "steps trained on per step inserted; actors or the learner wait to keep this ratio; 0 takes the preset's value",
        minimum=0,
        maximum=10_000,
    )
    replay_compression: bool = option(False, "compress frames in the replay, losslessly")
    checkpoint_replay: bool = option(
        False, "save the replay with each checkpoint and restore it; otherwise a resumed run fills it again"
    )
    priority_exponent: float = option(
        -1.0, "alpha, the exponent of priorities in sampling; -1 takes the preset's value", minimum=-1, maximum=100
    )
    importance_exponent: float = option(
        -1.0,
        "beta, the exponent of importance weights in the loss; -1 takes the preset's value",
        minimum=-1,
        maximum=1,
    )
    priority_eta: float = option(
        0.9,
        "eta, the weight of the maximum TD error of a sequence in its priority; the mean has weight 1 - eta; r2d2",
        minimum=0,
        maximum=1,
    )
    n_step: int = option(0, "steps of an n-step return; 0 takes the preset's value", minimum=0, maximum=MAX_N_STEP)
    target_period: int = option(
        0,
        "learner steps between copies of the weights to the target network; 0 takes the preset's value",
        minimum=0,
        maximum=1_000_000_000,
    )
    burn_in: int = option(
        -1,
        "steps at the start of a sequence that only warm up the recurrent state, without gradient; -1 takes the "
        "preset's value; r2d2",
        minimum=-1,
        maximum=MAX_RECURRENT_STEPS,
    )
    sequence_length: int = option(
        0,
        "transitions of a sequence that are learned from, after burn_in; sequences start every unroll_length steps, "
        "so longer ones overlap; 0 takes the preset's value; r2d2",
        minimum=0,
        maximum=MAX_RECURRENT_STEPS,
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer."""

    optimizer: Literal["auto", "rmsprop", "rmsprop_centered", "adam"] = option(
        "auto", "the optimizer; auto takes the preset's optimizer"
    )
    learning_rate: float = option(
        0.0, "learning rate at the start; 0 takes the preset's value", minimum=0, maximum=1000
    )
    end_learning_rate: float = option(
        -1.0,
        "learning rate at the end, to which it goes linearly over total_environment_frames; -1 takes the preset's "
        "value",
        minimum=-1,
        maximum=1000,
    )
    learning_rate_scaling: Literal["none", "linear", "sqrt"] = option(
        "none", "how the learning rate grows with the number of learners"
    )
    decay: float = option(-1.0, "decay of RMSProp's mean square; -1 takes the preset's value", minimum=-1, maximum=1)
    initial_mean_square: float = option(
        0.0,
        "RMSProp's mean square before the first update; it was 1 in TensorFlow 1, with which IMPALA was published",
        minimum=0,
        maximum=1000,
    )
    momentum: float = option(0.0, "momentum of RMSProp, or beta_1 of Adam", minimum=0, maximum=1)
    epsilon: float = option(
        0.0,
        "epsilon of the optimizer, inside the square root for RMSProp; 0 takes the preset's value",
        minimum=0,
        maximum=1000,
    )
    gradients_clipping: float = option(
        0.0,
        "global norm to which gradients are clipped; -1 disables clipping, 0 takes the preset's value",
        minimum=-1,
        maximum=1_000_000_000,
    )
