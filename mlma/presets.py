"""What "auto" and 0 mean for the level at hand: the values behind the two-command start. A flag that is set stays as set.

The numbers come from the runs in sandbox/case_studies/.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from mlma import envs
from mlma.config import Config
from mlma.mpirun import World
from mlma.types import EnvSpec

FOR_VECTORS = ("MLPAgent", "MLPLSTMAgent")
FOR_IMAGES = ("ShallowConvNetAgent", "SimpleConvNetAgent", "ConvNetAgent", "ConvLSTMAgent", "ResNetLSTMAgent")

# Pong in half an hour: sandbox/case_studies/pong.md, docs/decisions/0005-pong.md.
IMAGES: dict[str, Any] = dict(
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
VECTORS: dict[str, Any] = dict(
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
PONG = ("PongNoFrameskip-v4", "atari_pong", "ALE/Pong-v5")
TMAZE = dict(total_environment_frames=2e6, agent_name="MLPLSTMAgent")
LEVELS: dict[str, dict[str, Any]] = {
    "corridor": CORRIDOR,
    "tmaze": TMAZE,
    **{key: dict(total_environment_frames=1.2e7) for key in PONG},
}

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
APEX_LEVELS = {"tmaze": dict(total_environment_frames=2e5), **{key: APEX_PONG for key in PONG}}

# R2D2 as in its paper (table 2); sequences begin unroll_length apart, so that 80 steps overlap by 40.
R2D2_IMAGES: dict[str, Any] = APEX_IMAGES | dict(
    agent_name="ConvLSTMAgent",
    batch_size=64,
    unroll_length=40,
    burn_in=40,
    sequence_length=80,
    replay_capacity=4_000_000,
    replay_min_fill=200_000,
    priority_exponent=0.9,
    importance_exponent=0.6,
    n_step=5,
    optimizer="adam",
    learning_rate=1e-4,
    end_learning_rate=1e-4,
    epsilon=1e-3,
    gradients_clipping=40.0,
    discounting=0.997,
    reward_clipping="none",
)
R2D2_VECTORS: dict[str, Any] = R2D2_IMAGES | dict(
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
# Rewards of VizDoom's levels are about 1 as they come (mlma.envs.doom.LEVELS); one frame tells what is seen.
DOOM: dict[str, Any] = dict(num_stacked_frames=1, reward_clipping="none", total_environment_frames=1e7)
# sandbox/case_studies/doom.md
IMPALA_DOOM: dict[str, Any] = DOOM | dict(batch_size=32, sample_reuse=2, entropy_cost=0.005)
# IMPALA as in its paper for DMLab-30, with the example settings of its released code where the paper searched a range.
DMLAB: dict[str, Any] = dict(
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
# What does not depend on the algorithm, but on what it looks at.
SIGHT = ("num_stacked_frames", "reward_clipping", "total_environment_frames")
SUITES: dict[str, dict[str, dict[str, Any]]] = {
    "impala": {"doom": IMPALA_DOOM, "dmlab": DMLAB},
    "apex": {"doom": DOOM, "dmlab": {name: DMLAB[name] for name in SIGHT} | dict(envs_per_actor=4)},
    "r2d2": {"doom": DOOM, "dmlab": {name: DMLAB[name] for name in SIGHT} | dict(envs_per_actor=4, reward_clipping="none")},
}
PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]] = {  # images, vectors, levels
    "impala": (IMAGES, VECTORS, LEVELS),
    "apex": (APEX_IMAGES, APEX_VECTORS, APEX_LEVELS),
    "r2d2": (R2D2_IMAGES, R2D2_VECTORS, {}),
}


def resolve(config: Config, spec: EnvSpec) -> Config:
    """`config` with every "auto" settled."""
    images, vectors, levels = PRESETS[config.algorithm]
    preset = images if len(spec.observation.shape) == 3 else vectors
    preset = preset | SUITES[config.algorithm].get(envs.suite_of(config.level_name), {}) | levels.get(config.level_name, {})
    local = 1 if config.deterministic else cores()
    actors = config.num_actors or (local if config.task < 0 else len(config.actor_hosts.split(",")))
    config = dataclasses.replace(config, num_actors=actors)
    preset["envs_per_actor"] = max(preset["envs_per_actor"], -(-len(spec.actions_of) // actors))  # each level is played
    chosen = {name: value for name, value in preset.items() if getattr(config, name) == getattr(Config, name)}
    config = dataclasses.replace(config, **chosen)
    _check_levels(config, spec)
    if (config.agent_name in FOR_VECTORS) != (len(spec.observation.shape) == 1):
        kind = "vectors" if len(spec.observation.shape) == 1 else "images"
        fitting = ", ".join(FOR_VECTORS if kind == "vectors" else FOR_IMAGES)
        raise ValueError(
            f"--agent_name={config.agent_name}: {config.level_name} has {kind} as observations; allowed: {fitting}"
        )
    _check_replay(config)
    if config.deterministic and (config.task < 0 or config.job_name == "learner"):
        config = _in_turns(config)
    config = dataclasses.replace(config, learner_threads=config.learner_threads or cores())
    if config.learner_parts and config.batch_size % config.learner_parts:
        raise ValueError(f"--learner_parts={config.learner_parts}: must divide --batch_size={config.batch_size}")
    # Local training (task -1) makes a socket of its own; learner and actors that are started apart must agree without a word.
    apart = config.learner_host == "auto" and config.task >= 0
    return dataclasses.replace(
        config,
        learner_host="localhost:8001" if apart else config.learner_host,
        life_loss_ends_return=config.life_loss_ends_return and config.algorithm != "r2d2",
        queue_capacity=config.queue_capacity or config.batch_size,
        inference_batch=config.inference_batch or min(512, actors * config.envs_per_actor),
        num_action_repeats=spec.action_repeats,
        learner_parts=config.learner_parts or _learner_parts(config),
    )


def _learner_parts(config: Config) -> int:
    """Threads that take whole parts of a sample need as much of the cores for a learner step as one thread, and half of its
    time; threads that share each operation need up to 38 % more of the cores (docs/performance.md). Ape-X, without unrolls,
    gains nothing, and the graphs of recurrent networks are large already."""
    whole = config.algorithm == "apex" or config.agent_name in FOR_VECTORS or config.inference == "learner"
    if whole or config.learner_threads == 1:
        return 1
    recurrent = "LSTM" in config.agent_name
    most = min(config.learner_threads * (1 if recurrent else 2), 4 if recurrent else 8, config.batch_size // 2)
    return max((parts for parts in range(1, most + 1) if config.batch_size % parts == 0), default=1)


def _check_levels(config: Config, spec: EnvSpec) -> None:
    """ValueError in one line for flags that the levels of the run do not go with."""
    count = len(spec.actions_of) or 1
    if config.num_action_repeats not in (0, spec.action_repeats):
        raise ValueError(f"--num_action_repeats={config.num_action_repeats}: {config.level_name} has {spec.action_repeats}")
    clippings = len(config.reward_clipping.split(","))
    if clippings not in (1, count):
        raise ValueError(f"--reward_clipping={config.reward_clipping}: is for {clippings} levels; there are {count}")
    if config.popart and config.algorithm != "impala":
        raise ValueError(f"--popart: is for --algorithm=impala, not {config.algorithm}")


def _in_turns(config: Config) -> Config:
    """Takes turns: what all actors of a learner play with one set of weights, a round, is trained on as a whole."""
    if config.algorithm != "impala":
        raise ValueError(
            f"--deterministic: not with --algorithm={config.algorithm}, whose actors fill a replay; allowed: impala"
        )
    trajectories = config.num_actors * config.envs_per_actor
    if trajectories % config.batch_size:
        raise ValueError(
            f"--deterministic: --batch_size={config.batch_size} must divide the {trajectories} trajectories of one turn, "
            f"which are those of {config.num_actors} actors x --envs_per_actor={config.envs_per_actor}"
        )
    return dataclasses.replace(
        config,
        queue_capacity=max(config.queue_capacity, trajectories),
        report_every_steps=config.report_every_steps or 100,
    )


def _check_replay(config: Config) -> None:
    """ValueError in one line for a replay that could never be learned from."""
    if config.algorithm == "impala":
        return
    if config.replay_min_fill > config.replay_capacity:
        raise ValueError(
            f"--replay_min_fill={config.replay_min_fill}: must be at most --replay_capacity={config.replay_capacity}"
        )
    most = config.sequence_length - config.burn_in
    if config.algorithm == "r2d2" and config.unroll_length > most:
        raise ValueError(
            f"--unroll_length={config.unroll_length}: sequences begin so far apart, and would leave steps out; must be at most "
            f"--sequence_length={config.sequence_length} - --burn_in={config.burn_in} = {most}"
        )


def cores() -> int:
    """For each learner of this host."""
    return max(1, len(os.sched_getaffinity(0)) // World.here().local_size)
