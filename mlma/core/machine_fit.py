"""Whether a run fits this machine: its memory and threads, reckoned from flags before anything is loaded or started.

The memory is a lower bound, so that no run is refused that would work: what each process has at least, trajectories,
replay and samples. Not counted: weights, the levels themselves, the larger activations of deeper networks. Constants
are private memory (Private_Dirty in /proc/PID/smaps_rollup) measured with TensorFlow 2.21 on x86-64, rounded down:
a learner of catch 288 MB, an actor of catch 236 MB, a worker process of gymnasium 30 MB; 0.30 MB more in a learner of
Pong for each step in its batch (ShallowConvNetAgent, batches of 8 and 32), which is 10 times the stacked frames. Not
here: the replay's exact size (`check_fits` in mlma/replay/trajectory_store.py), limits of single flags
(mlma/core/config/limits.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mlma.core.actions import action_spec, policy_size
from mlma.core.config import Config
from mlma.core.own_code import find_algorithm
from mlma.core.types import ArraySpec, EnvSpec
from mlma.utils.child_process import available_cores, local_learners, started_by_mpirun
from mlma.utils.memory import available_memory, total_memory

LEARNER_BYTES, ACTOR_BYTES, ENV_WORKER_BYTES = 280e6, 230e6, 29e6  # of a process, at least
SAMPLE_FACTOR = 10  # bytes in a learner step per byte of the observations that the network sees
INFERENCE_FACTOR = 4  # the same for choosing actions: floats instead of bytes
REPLAY_STEP_BYTES = 60  # of a step in the replay besides its observation
COMPRESSED_SHARE = 0.25  # of a frame with --replay_compression, as `check_fits` assumes
REUSE_DISTANCE = 4  # samples that the queue keeps for each further use: mlma/replay/trajectory_queue.py
MAX_RECORD_BYTES = 2**31 - 1  # of a trajectory: numpy's limit for one record
THREADS_PER_CORE, ALWAYS_ALLOWED_THREADS = 16, 64
SUITES_IN_ONE_PROCESS = ("atari", "catch", "corridor", "tmaze")  # have no worker processes
USUAL_VALUES = {  # the flag furthest above its own is named
    "num_learners": 2, "num_actors": 8, "envs_per_actor": 32, "env_processes": 4, "batch_size": 32,
    "unroll_length": 50, "queue_capacity": 64, "sample_reuse": 3, "replay_capacity": 1e6, "sequence_length": 80,
    "burn_in": 40, "n_step": 5, "num_stacked_frames": 4, "width": 128, "height": 128, "test_num_episodes": 30,
}  # fmt: skip
PROPORTIONAL_FLAGS = ("num_learners", "num_actors", "replay_capacity", "sample_reuse")  # of their part


class Part(NamedTuple):
    """A part of a run that needs memory on this machine."""

    name: str
    size: float  # bytes
    flags: tuple[str, ...]  # that determine it


def check_fits_machine(config: Config, spec: EnvSpec, role: str) -> None:
    """ValueError, in one line, if this process and the ones that it starts cannot fit. `config` is resolved.

    Local training is compared with the memory that is free. A worker of a larger run is compared with all memory of
    the machine: it may be restarted while the memory of the one before is still in use.
    """
    _check_threads(config)
    record = _record_bytes(config, spec)
    if role != "evaluator" and record > MAX_RECORD_BYTES:
        flag = _most_unusual(config, ("unroll_length", "width", "height", "num_stacked_frames"))
        size, limit = _gigabytes(record), _gigabytes(MAX_RECORD_BYTES)
        raise ValueError(f"--{flag}={config.get(flag)}: a trajectory would have {size}; at most {limit} are allowed")
    alone = config.run.task < 0 and not started_by_mpirun()
    memory = available_memory() if alone else total_memory()
    parts = memory_parts(config, spec, role)
    needed = sum(part.size for part in parts)
    if needed > memory:
        largest = max(parts, key=lambda part: part.size)
        flag = _most_unusual(config, largest.flags)
        fitting = int(config.get(flag) * (memory - needed + largest.size) / largest.size)
        hint = f"; about {fitting:,} would fit" if flag in PROPORTIONAL_FLAGS and fitting > 0 else ""
        raise ValueError(
            f"--{flag}={config.get(flag)}: {largest.name} would need at least {_gigabytes(largest.size)}, all of the "
            f"run {_gigabytes(needed)}; {_gigabytes(memory)} are {'free' if alone else 'in this machine'}{hint}"
        )


def memory_parts(config: Config, spec: EnvSpec, role: str) -> list[Part]:
    """What this process and the ones that it starts on this machine need at least."""
    if role == "evaluator":
        inference = _observation_bytes(config, spec) * INFERENCE_FACTOR
        episodes = config.run.test_num_episodes * inference
        return [Part("the episodes", LEARNER_BYTES + episodes, ("test_num_episodes", "width", "height"))]
    if role == "actor":
        return [_actor_part(config, spec, 1)]
    local = config.run.task < 0
    learners = max(1, config.distributed.num_learners) if local and not started_by_mpirun() else local_learners()
    parts = [part._replace(size=learners * part.size) for part in _learner_parts(config, spec)]
    return [*parts, _actor_part(config, spec, learners * config.actor.num_actors)] if local else parts


def _actor_part(config: Config, spec: EnvSpec, actors: int) -> Part:
    envs, processes = config.actor.envs_per_actor, config.environment.env_processes
    workers = 0 if spec.suite in SUITES_IN_ONE_PROCESS else min(processes, envs)
    inference = _observation_bytes(config, spec) * INFERENCE_FACTOR
    each = ACTOR_BYTES + workers * ENV_WORKER_BYTES + envs * (_record_bytes(config, spec) + inference)
    flags = "num_learners", "num_actors", "envs_per_actor", "env_processes", "unroll_length", "width", "height"
    return Part(f"{actors:,} actors" if actors > 1 else "an actor", actors * each, flags)


def _learner_parts(config: Config, spec: EnvSpec) -> list[Part]:
    """The parts of one learner."""
    algorithm, learner, replay = find_algorithm(config.run.algorithm), config.learner, config.replay
    batch, stacked = learner.batch_size, _observation_bytes(config, spec)
    frame = _array_bytes(spec.observation)
    image = "width", "height"
    parts = [Part("the learners", LEARNER_BYTES, ("num_learners",))]
    if not algorithm.uses_replay:
        recent = REUSE_DISTANCE * (learner.sample_reuse - 1) + 1
        waiting = max(1, learner.queue_capacity // batch) + 1
        flags: tuple[str, ...] = ("batch_size", "unroll_length", *image)
        size = (recent + waiting) * batch * _record_bytes(config, spec)
        parts.append(Part("the queue", size, (*flags, "queue_capacity", "sample_reuse")))
        steps = learner.unroll_length + 1
    else:
        step = frame * (COMPRESSED_SHARE if replay.replay_compression else 1) + REPLAY_STEP_BYTES
        parts.append(Part("the replay", replay.replay_capacity * step, ("replay_capacity", *image)))
        steps, flags = 2, ("batch_size", *image)  # the network sees the first and the last step of a transition
        if algorithm.learns_sequences:
            steps, flags = replay.burn_in + replay.sequence_length + 1, (*flags, "burn_in", "sequence_length")
    sample = batch * steps * stacked * SAMPLE_FACTOR
    return [*parts, Part("a learner step", sample, (*flags, "num_stacked_frames"))]


def _observation_bytes(config: Config, spec: EnvSpec) -> float:
    """What the network sees at one step of one environment."""
    return _array_bytes(spec.observation) * config.learner.num_stacked_frames


def _record_bytes(config: Config, spec: EnvSpec) -> float:
    """A trajectory of one environment, without the state of an LSTM."""
    frames = config.learner.unroll_length + config.learner.num_stacked_frames
    step = sum(map(_array_bytes, spec.extras.values())) + 4 * policy_size(spec) + 29  # reward, value, ...
    step += 2 * _array_bytes(action_spec(spec)) - 8
    return frames * _array_bytes(spec.observation) + (config.learner.unroll_length + 1) * step


def _array_bytes(spec: ArraySpec) -> float:
    return float(math.prod(spec.shape)) * np.dtype(spec.dtype).itemsize


def _most_unusual(config: Config, flags: tuple[str, ...]) -> str:
    return max(flags, key=lambda flag: config.get(flag) / USUAL_VALUES[flag])


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


def _check_threads(config: Config) -> None:
    """Threads beyond the cores only take turns; thousands of them never get anything done."""
    limit = max(ALWAYS_ALLOWED_THREADS, THREADS_PER_CORE * available_cores())
    for flag in ("learner_threads", "actor_threads", "env_threads"):
        if config.get(flag) > limit:
            cores = available_cores()
            raise ValueError(f"--{flag}={config.get(flag)}: must be at most {limit} with {cores} cores")
