"""The actor role: builds an environment loop from the configuration and runs it."""

from __future__ import annotations

import os

import tensorflow as tf

from mlma.acting.environment_loop import ActorDependencies, StepObserver, run_environment_loop
from mlma.core.config import Config
from mlma.core.precision import with_precision
from mlma.core.types import EnvSpec, MakeAgent
from mlma.envs.registry import make_for_levels
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.metrics_endpoint import FIRST_ACTOR, MetricsEndpoint
from mlma.monitoring.run_log import setup_logging
from mlma.transport.addresses import FROM_PARENT, parse_address, receive_address
from mlma.transport.auth import read_token
from mlma.transport.client import connect
from mlma.transport.handshake import failures_reported, handshake_request
from mlma.transport.protocol import CALL_TIMEOUT_SECONDS
from mlma.utils.tensorflow_setup import set_tensorflow_threads


def run(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    """Acts until training is over. `config` is resolved; `spec` describes its levels."""
    heartbeat = Heartbeat(config.distributed.heartbeat_folder, f"actor-{config.run.task}")
    token = read_token(config.distributed.token_file)
    setup_logging(f"actor {config.run.task}")
    set_tensorflow_threads(config.actor.actor_threads)
    if config.run.deterministic:
        tf.config.experimental.enable_op_determinism()
        # Required to create variables, although actors never use their initial values.
        tf.random.set_seed(config.run.seed)
    make_agent = with_precision(make_agent, config)
    if config.distributed.learner_host == FROM_PARENT:
        config = config.replace(learner_host=receive_address())
    address = parse_address(config.distributed.learner_host, token, config.distributed.insecure_plaintext)
    identity = {"task": config.run.task, "host": os.uname().nodename, "envs": config.actor.envs_per_actor}
    num_levels = len(spec.actions_by_level) or 1
    dependencies = ActorDependencies(
        make_env=lambda seed, indices: make_for_levels(
            config.environment, spec, indices % num_levels, seed, repeatable=config.run.deterministic
        ),
        connect=lambda: connect(address, token, CALL_TIMEOUT_SECONDS),
        handshake_request=lambda layout, weights: handshake_request(config, layout, weights) | identity,
        heartbeat=heartbeat,
        observer=_video_recorder(config),
    )
    port = config.reports.metrics_port
    MetricsEndpoint(port and port + FIRST_ACTOR + config.run.task, heartbeat)
    with failures_reported(dependencies.connect, identity):
        run_environment_loop(config, spec, make_agent(config, spec), dependencies)
    heartbeat.close()
    return 0


def _video_recorder(config: Config) -> StepObserver | None:
    if not config.reports.video_every_episodes:
        return None
    from mlma.evaluation.video import training_video_recorder  # imports what other actors do without

    return training_video_recorder(config)
