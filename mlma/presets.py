"""What "auto" and 0 mean for the level at hand: the values behind the two-command start. A flag that is set stays as set.

The numbers come from the runs in sandbox/case_studies/.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from mlma.config import Config
from mlma.types import EnvSpec

IMAGES: dict[str, Any] = dict(
    agent_name="ShallowConvNetAgent",
    num_stacked_frames=4,
    envs_per_actor=32,
    batch_size=16,
    unroll_length=20,
    entropy_cost=0.01,
    learning_rate=0.0006,
)
VECTORS: dict[str, Any] = dict(
    agent_name="MLPAgent",
    num_stacked_frames=1,
    envs_per_actor=16,
    batch_size=16,
    unroll_length=20,
    entropy_cost=0.01,
    learning_rate=0.002,
)
# The corridor's answer is known for the undiscounted return and without an entropy bonus, and a blind value function must
# not bootstrap: trajectories are longer than episodes.
CORRIDOR = VECTORS | dict(unroll_length=100, entropy_cost=0.0)
AUTO = ("auto", 0, 0.0, -1.0)


def resolve(config: Config, spec: EnvSpec) -> Config:
    """`config` with every "auto" settled."""
    preset = IMAGES if len(spec.observation.shape) == 3 else VECTORS
    if config.level_name == "corridor":
        preset = CORRIDOR
    chosen = {}
    for name, value in preset.items():
        automatic = -1.0 if name == "entropy_cost" else "auto" if name == "agent_name" else 0
        if getattr(config, name) == automatic:
            chosen[name] = value
    config = dataclasses.replace(config, **chosen)
    if (config.agent_name == "MLPAgent") != (len(spec.observation.shape) == 1):
        kind = "vectors" if len(spec.observation.shape) == 1 else "images"
        fitting = "MLPAgent" if kind == "vectors" else "ShallowConvNetAgent, SimpleConvNetAgent, ResNetLSTMAgent"
        raise ValueError(
            f"--agent_name={config.agent_name}: {config.level_name} has {kind} as observations; allowed: {fitting}"
        )
    return dataclasses.replace(
        config,
        queue_capacity=config.queue_capacity or config.batch_size,
        num_actors=config.num_actors or cores(),
        learner_threads=config.learner_threads or cores(),
    )


def cores() -> int:
    return len(os.sched_getaffinity(0))
