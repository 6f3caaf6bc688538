"""The actor role: builds an environment loop from the configuration and runs it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import tensorflow as tf

from mlma.acting.environment_loop import ActorDependencies, run_environment_loop
from mlma.core.config.config import Config
from mlma.core.types import EnvSpec, MakeAgent
from mlma.envs.registry import make_for_levels
from mlma.monitoring.heartbeat import Heartbeat
from mlma.transport.auth import check_address, is_local_address, read_token
from mlma.transport.client import Client
from mlma.transport.handshake import handshake_request
from mlma.transport.protocol import CALL_TIMEOUT_SECONDS
from mlma.utils.tensorflow_setup import set_tensorflow_threads

# Niceness of an actor on its learner's host. Whoever has work goes first there, and actors take the rest: were they first, they
# would fill the queue and then wait, while a learner step is in one of its parts that only one core can do.
ACTOR_NICENESS = 10


# -- actor


def lower_priority() -> None:
    niceness = os.nice(ACTOR_NICENESS)  # of this thread and of those that it will make; the runtime has some already
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended since
            os.setpriority(os.PRIO_PROCESS, int(thread), niceness)


def run_actor(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    pulse = Heartbeat(config.health_folder, f"actor-{config.task}")
    token = read_token(config.token_file)
    address = check_address(config.learner_host, token)
    if is_local_address(address):
        lower_priority()
    set_tensorflow_threads(config.actor_threads)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
        tf.random.set_seed(config.seed)  # of weights that are never used: it will not make any without
    me = {"task": config.task, "host": os.uname().nodename, "envs": config.envs_per_actor}

    def say(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} actor {config.task}: {line}", flush=True)

    recorder = None
    if config.video_every_episodes:
        from mlma.evaluation.video import TrainingVideoRecorder  # what it imports, other actors do without

        recorder = TrainingVideoRecorder(config, Path(config.logdir) / "videos" / "training", say)
    outside = ActorDependencies(
        make_env=lambda seed, places: make_for_levels(config, spec, places % (len(spec.actions_of) or 1), seed),
        connect=lambda: Client(address, token, CALL_TIMEOUT_SECONDS),
        hello=lambda layout, weights: handshake_request(config, layout, weights) | me,
        say=say,
        pulse=pulse,
        recorder=recorder,
    )
    run_environment_loop(config, spec, make_agent(config, spec), outside)
    pulse.end()
    return 0
