"""Replaces every "auto", 0 and -1 that stands for a preset, and checks flags against the level. Other values stay.

Not here: the presets, one file per algorithm next to this one.
"""

from __future__ import annotations

from mlma.core.catalog import ALGORITHMS, networks_for
from mlma.core.config import Config, with_logdir
from mlma.core.config.json_object import canonical_json
from mlma.core.config.limits import MAX_RECURRENT_STEPS
from mlma.core.own_code import find_algorithm, find_network
from mlma.core.types import EnvSpec

MAX_INFERENCE_BATCH = 512


def resolve(config: Config, spec: EnvSpec, cores: int) -> Config:
    """`config` with every value resolved; ValueError, in one line, for values that do not fit the level.

    `cores`: number of cores of this host that one learner may use.
    """
    algorithm = find_algorithm(config.run.algorithm)
    config = _apply_presets(with_logdir(config), spec, cores)
    _check_levels(config, spec)
    _check_network(config, spec)
    _check_replay(config)
    if config.run.deterministic and (config.run.task < 0 or config.run.job_name == "learner"):
        config = _lockstep(config)
    config = config.replace(learner_threads=config.learner.learner_threads or cores)
    shards, batch_size = config.learner.gradient_shards, config.learner.batch_size
    if shards and batch_size % shards:
        raise ValueError(f"--gradient_shards={shards}: must divide --batch_size={batch_size}")
    # Local training (task -1) makes a private socket; a learner and actors that are started separately need a fixed
    # address.
    needs_address = config.distributed.learner_host == "auto" and config.run.task >= 0
    num_envs = config.actor.num_actors * config.actor.envs_per_actor
    return config.replace(
        learner_host="localhost:8001" if needs_address else config.distributed.learner_host,
        life_loss_ends_return=config.environment.life_loss_ends_return and algorithm.supports_life_loss,
        queue_capacity=config.learner.queue_capacity or batch_size,
        inference_batch=config.actor.inference_batch or min(MAX_INFERENCE_BATCH, num_envs),
        num_action_repeats=spec.action_repeats,
        env_args=canonical_json(config.environment.env_args),
        gradient_shards=shards or _gradient_shards(config, len(spec.observation.shape) == 3),
    )


def _apply_presets(config: Config, spec: EnvSpec, cores: int) -> Config:
    presets = find_algorithm(config.run.algorithm).presets
    has_image = len(spec.observation.shape) == 3
    preset = {
        **{"normalize_observations": "off", "normalize_returns": "on" if config.learner.popart else "off"},
        **(presets.images if has_image else presets.vectors),
        **presets.suites.get(spec.suite, {}),
        **(presets.real_actions if spec.action_parts else {}),
        **(presets.real_vectors if spec.action_parts and not has_image else {}),
        **presets.levels.get(config.environment.level_name, {}),
    }
    local_actors = 1 if config.run.deterministic else cores
    remote_actors = len(config.distributed.actor_hosts.split(","))
    num_actors = config.actor.num_actors or (local_actors if config.run.task < 0 else remote_actors)
    envs_to_cover_levels = -(-len(spec.actions_by_level) // num_actors)
    preset["envs_per_actor"] = max(preset["envs_per_actor"], envs_to_cover_levels)
    defaults = Config()
    chosen = {name: value for name, value in preset.items() if config.get(name) == defaults.get(name)}
    return config.replace(num_actors=num_actors, **chosen)


def _gradient_shards(config: Config, has_image: bool) -> int:
    """The number of shards of a batch that the learner computes in parallel.

    Two threads that each compute a shard finish a learner step in half the time of one thread, with the same CPU time.
    Threads that share each operation need up to 38 % more CPU time (docs/benchmarks/throughput.md). Graphs of recurrent
    networks are already large, so they get fewer shards.
    """
    network, threads = find_network(config.run.agent_name), config.learner.learner_threads
    supported = find_algorithm(config.run.algorithm).supports_gradient_shards and has_image
    if not supported or config.actor.inference == "learner" or threads == 1:
        return 1
    if config.run.deterministic and not network.deterministic_shards:
        return 1
    batch_size, feed_forward = config.learner.batch_size, network.recurrent is False
    most = min(threads * (2 if feed_forward else 1), 8 if feed_forward else 4, batch_size // 2)
    return max((shards for shards in range(1, most + 1) if batch_size % shards == 0), default=1)


def _check_levels(config: Config, spec: EnvSpec) -> None:
    """ValueError for flags that do not fit the levels of the run."""
    count, level_name = len(spec.actions_by_level) or 1, config.environment.level_name
    repeats, clipping = config.environment.num_action_repeats, config.learner.reward_clipping
    if repeats not in (0, spec.action_repeats):
        own = spec.action_repeats
        raise ValueError(f"--num_action_repeats={repeats}: {level_name} has {own}; allowed: 0, {own}")
    if (clippings := len(clipping.split(","))) not in (1, count):
        problem = f"has {clippings} values for {count} levels; allowed: one, or one per level"
        raise ValueError(f"--reward_clipping={clipping}: {problem}")
    if config.learner.popart and config.learner.normalize_returns == "off":
        raise ValueError("--normalize_returns=off: not with --popart; allowed: auto, on")
    _check_algorithm(config, spec)


def _check_algorithm(config: Config, spec: EnvSpec) -> None:
    """ValueError for what the algorithm does not support."""
    algorithm, learner = find_algorithm(config.run.algorithm), config.learner
    with_real_actions = [name for name, other in ALGORITHMS.items() if other.supports_real_actions]
    if spec.action_parts and not algorithm.supports_real_actions:
        raise ValueError(
            f"--algorithm={config.run.algorithm}: {config.environment.level_name} has actions of real numbers; "
            f"allowed: {', '.join(with_real_actions)}"
        )
    given = {
        "--popart": learner.popart,
        "--normalize_returns=on": learner.normalize_returns == "on",
        "--normalize_observations=on": learner.normalize_observations == "on",
    }
    supporting = [name for name, other in ALGORITHMS.items() if other.supports_popart]
    for flag, is_given in given.items():
        if is_given and not algorithm.supports_popart:
            raise ValueError(f"{flag}: not with --algorithm={config.run.algorithm}; allowed: {', '.join(supporting)}")


def _check_network(config: Config, spec: EnvSpec) -> None:
    observations = "image" if len(spec.observation.shape) == 3 else "vector"
    name = config.run.agent_name
    network = find_network(name)
    if network.observations not in (observations, "any"):
        raise ValueError(
            f"--agent_name={name}: {config.environment.level_name} has {observations} observations; "
            f"allowed: {', '.join(networks_for(observations))}"
        )
    length, sequences = config.learner.unroll_length, find_algorithm(config.run.algorithm).learns_sequences
    if network.recurrent and not sequences and length > MAX_RECURRENT_STEPS:
        raise ValueError(f"--unroll_length={length}: must be at most {MAX_RECURRENT_STEPS} with --agent_name={name}")


def _lockstep(config: Config) -> Config:
    """Settings for --deterministic: actors and learner alternate.

    The learner trains on everything that all actors collect with one version of the weights (a round) before the next
    round.
    """
    supporting = [name for name, algorithm in ALGORITHMS.items() if algorithm.supports_deterministic]
    if not find_algorithm(config.run.algorithm).supports_deterministic:
        raise ValueError(
            f"--deterministic: not with --algorithm={config.run.algorithm}, whose actors fill a replay; "
            f"allowed: {', '.join(supporting)}"
        )
    num_actors, envs_per_actor = config.actor.num_actors, config.actor.envs_per_actor
    trajectories, batch_size = num_actors * envs_per_actor, config.learner.batch_size
    if trajectories % batch_size:
        raise ValueError(
            f"--deterministic: --batch_size={batch_size} must divide the {trajectories} trajectories of a round, "
            f"which are those of {num_actors} actors x --envs_per_actor={envs_per_actor}"
        )
    return config.replace(
        queue_capacity=max(config.learner.queue_capacity, trajectories),
        report_every_steps=config.reports.report_every_steps or 100,
    )


def _check_replay(config: Config) -> None:
    """ValueError for a replay from which nothing could ever be sampled, or that would skip steps."""
    algorithm, replay = find_algorithm(config.run.algorithm), config.replay
    if not algorithm.uses_replay:
        return
    if replay.replay_min_fill > replay.replay_capacity:
        raise ValueError(
            f"--replay_min_fill={replay.replay_min_fill}: must be at most --replay_capacity={replay.replay_capacity}"
        )
    most, unroll_length = replay.sequence_length - replay.burn_in, config.learner.unroll_length
    if algorithm.learns_sequences and unroll_length > most:
        raise ValueError(
            f"--unroll_length={unroll_length}: exceeds --sequence_length={replay.sequence_length} - "
            f"--burn_in={replay.burn_in} = {most}, so steps would be skipped"
        )
