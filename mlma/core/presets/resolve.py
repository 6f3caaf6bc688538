"""What "auto" and 0 mean for the level at hand: the values behind the two-command start. A flag that is set stays as set.

The numbers come from the runs in sandbox/case_studies/.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mlma.core.config.config import Config
from mlma.core.presets.apex import APEX_IMAGES, APEX_LEVELS, APEX_VECTORS
from mlma.core.presets.impala import IMPALA_DMLAB, IMPALA_DOOM, IMPALA_IMAGES, IMPALA_LEVELS, IMPALA_VECTORS
from mlma.core.presets.r2d2 import R2D2_IMAGES, R2D2_VECTORS
from mlma.core.presets.suites import DOOM, OBSERVATION_FIELDS
from mlma.core.types import EnvSpec
from mlma.distributed.world import available_cores
from mlma.envs.registry import suite_of

FOR_VECTORS = ("MLPAgent", "MLPLSTMAgent")
FOR_IMAGES = ("ShallowConvNetAgent", "SimpleConvNetAgent", "ConvNetAgent", "ConvLSTMAgent", "ResNetLSTMAgent")
SUITES: dict[str, dict[str, dict[str, Any]]] = {
    "impala": {"doom": IMPALA_DOOM, "dmlab": IMPALA_DMLAB},
    "apex": {"doom": DOOM, "dmlab": {name: IMPALA_DMLAB[name] for name in OBSERVATION_FIELDS} | dict(envs_per_actor=4)},
    "r2d2": {
        "doom": DOOM,
        "dmlab": {name: IMPALA_DMLAB[name] for name in OBSERVATION_FIELDS} | dict(envs_per_actor=4, reward_clipping="none"),
    },
}
PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]] = {  # images, vectors, levels
    "impala": (IMPALA_IMAGES, IMPALA_VECTORS, IMPALA_LEVELS),
    "apex": (APEX_IMAGES, APEX_VECTORS, APEX_LEVELS),
    "r2d2": (R2D2_IMAGES, R2D2_VECTORS, {}),
}


def resolve(config: Config, spec: EnvSpec) -> Config:
    """`config` with every "auto" settled."""
    images, vectors, levels = PRESETS[config.algorithm]
    preset = images if len(spec.observation.shape) == 3 else vectors
    preset = preset | SUITES[config.algorithm].get(suite_of(config.level_name), {}) | levels.get(config.level_name, {})
    local = 1 if config.deterministic else available_cores()
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
        config = _lockstep(config)
    config = dataclasses.replace(config, learner_threads=config.learner_threads or available_cores())
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
        learner_parts=config.learner_parts or _gradient_shards(config),
    )


def _gradient_shards(config: Config) -> int:
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


def _lockstep(config: Config) -> Config:
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
