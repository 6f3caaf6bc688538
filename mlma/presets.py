"""What "auto" and 0 mean for the level at hand: the values behind the two-command start. A flag that is set stays as set.

The numbers come from the runs in sandbox/case_studies/.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from mlma.config import Config
from mlma.mpirun import World
from mlma.types import EnvSpec

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
    epsilon=1e-5,
    gradients_clipping=128.0,
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
    epsilon=1e-5,
    gradients_clipping=-1.0,
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
    learning_rate=0.002,
    epsilon=0.01,
    gradients_clipping=40.0,
)
LEVELS: dict[str, dict[str, Any]] = {
    "corridor": CORRIDOR,
    **{key: dict(total_environment_frames=1.2e7) for key in ("PongNoFrameskip-v4", "atari_pong", "ALE/Pong-v5")},
}


def resolve(config: Config, spec: EnvSpec) -> Config:
    """`config` with every "auto" settled."""
    preset = IMAGES if len(spec.observation.shape) == 3 else VECTORS
    preset = preset | LEVELS.get(config.level_name, {})
    chosen = {name: value for name, value in preset.items() if getattr(config, name) == getattr(Config, name)}
    config = dataclasses.replace(config, **chosen)
    if (config.agent_name == "MLPAgent") != (len(spec.observation.shape) == 1):
        kind = "vectors" if len(spec.observation.shape) == 1 else "images"
        fitting = "MLPAgent" if kind == "vectors" else "ShallowConvNetAgent, SimpleConvNetAgent, ResNetLSTMAgent"
        raise ValueError(
            f"--agent_name={config.agent_name}: {config.level_name} has {kind} as observations; allowed: {fitting}"
        )
    # Local training (task -1) makes a socket of its own; learner and actors that are started apart must agree without a word.
    apart = config.learner_host == "auto" and config.task >= 0
    return dataclasses.replace(
        config,
        learner_host="localhost:8001" if apart else config.learner_host,
        queue_capacity=config.queue_capacity or config.batch_size,
        num_actors=config.num_actors or cores(),
        learner_threads=config.learner_threads or cores(),
    )


def cores() -> int:
    """For each learner of this host."""
    return max(1, len(os.sched_getaffinity(0)) // World.here().local_size)
