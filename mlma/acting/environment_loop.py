"""The actor's loop: steps E environments with one inference call for all; their trajectories go to the learner.

An actor never initialises weights: it acts with weights that it fetched, or the learner acts for it. A lost learner is
connected to again. Not here: the policies (mlma/acting/local_policy.py, remote_policy.py), the algorithm (agents/), the
environments (mlma/envs/), the transport (mlma/transport/).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mlma.acting.action_noise import NoiseGenerator
from mlma.acting.local_policy import LocalPolicy
from mlma.acting.remote_policy import RemotePolicy
from mlma.acting.telemetry import LOG_INTERVAL_SECONDS, Instruments, LevelCacheReport, ThroughputLogger
from mlma.acting.trajectory_writer import TrajectoryWriter, env_indices
from mlma.core.config import Config
from mlma.core.flat_weights import FlatWeights, build_variables
from mlma.core.record_layout import RecordLayout, trajectory_layout
from mlma.core.types import ActOutput, Agent, EnvSpec, TimeStep, VectorEnv
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.phase_timer import ACTOR_PHASES, PhaseTimer
from mlma.transport.client import Client
from mlma.transport.protocol import CALL_TIMEOUT_SECONDS, LearnerLostError
from mlma.utils.failure import running
from mlma.utils.tf_function import CachedGraph, tf_function

logger = logging.getLogger(__name__)

RECONNECT_BACKOFF_SECONDS = (0.2, 5.0)  # between two attempts to connect: first, longest
Policy = LocalPolicy | RemotePolicy
StepObserver = Callable[[VectorEnv, TimeStep, ActOutput], None]  # called after each step, e.g. to record a video


class ActorDependencies(NamedTuple):
    """What the loop gets from its role, so that tests can replace it."""

    make_env: Callable[[int, Any], VectorEnv]  # from a seed and the environments' indices in the run
    connect: Callable[[], Client]
    handshake_request: Callable[[RecordLayout, FlatWeights], dict[str, Any]]
    heartbeat: Heartbeat
    observer: StepObserver | None = None  # of actor 0


def run_environment_loop(config: Config, spec: EnvSpec, agent: Agent, dependencies: ActorDependencies) -> None:
    """Acts until the learner says that training is over."""
    build_variables(agent, spec)
    weights = FlatWeights(agent.network)
    layout = trajectory_layout(spec, agent, config.learner.unroll_length)
    act, initial_priorities = CachedGraph(agent.act), tf_function(agent.initial_priorities)
    request = dependencies.handshake_request(layout, weights)

    def make_policy(client: Client, answer: dict[str, Any], indices: Any, instruments: Instruments) -> Policy:
        num_envs, unroll_length = config.actor.envs_per_actor, config.learner.unroll_length
        epsilons = agent.exploration_epsilons(indices, answer["actors"] * num_envs)
        noise = NoiseGenerator(answer["seed"], epsilons, spec)
        if config.actor.inference == "learner":
            return RemotePolicy(spec, num_envs, unroll_length, answer["session"], noise, client, instruments)
        actor_id, state = config.run.task, agent.initial_state(num_envs)
        writer = TrajectoryWriter(
            layout, num_envs, unroll_length, actor_id, indices, answer["seed"], initial_priorities
        )
        lockstep = config.run.deterministic
        return LocalPolicy(actor_id, act, state, weights, writer, noise, client, instruments, lockstep)

    while True:
        client, answer = _connect(dependencies, request, config.distributed.reconnect_seconds)
        if "finished" in answer:
            client.say_farewell()
            client.close()
            break
        logger.info("connected to %s", config.distributed.learner_host)
        indices = env_indices(answer["actor"], answer["actors"], config.actor.envs_per_actor)
        env = dependencies.make_env(answer["seed"], indices)
        is_first_actor = answer["actor"] == 0
        try:
            timer = PhaseTimer(*ACTOR_PHASES)
            if is_first_actor and config.reports.profile:
                timer.record_events([], clock_offset=answer["ahead"])
            frames = env.num_envs * config.learner.unroll_length * spec.action_repeats
            instruments = Instruments(timer, dependencies.heartbeat, ThroughputLogger(frames), LevelCacheReport(env))
            policy = make_policy(client, answer, indices, instruments)
            _step_environments(env, policy, timer, dependencies.observer if is_first_actor else None)
            client.say_farewell()
            break
        except LearnerLostError as error:
            logger.warning("lost the learner: %s", error)
        finally:
            env.close()
            client.close()
    logger.info("training is over")


@running()
def _step_environments(env: VectorEnv, policy: Policy, timer: PhaseTimer, observer: StepObserver | None) -> None:
    timestep = env.reset()
    while (output := policy(timestep)) is not None:
        if observer:
            observer(env, timestep, output)
        timestep = env.step(output.action)
        if (crashed := getattr(env, "crashed", None)) is not None and crashed.any():
            policy.drop(crashed)
        timer.lap("simulate")


def _connect(dependencies: ActorDependencies, request: dict[str, Any], seconds: float) -> tuple[Client, dict[str, Any]]:
    """A client that the learner admitted, and its answer. Tries for `seconds`, with growing pauses."""
    began = logged = time.monotonic()
    pause, longest = RECONNECT_BACKOFF_SECONDS
    while True:
        dependencies.heartbeat.waiting_for("its learner", CALL_TIMEOUT_SECONDS)
        client = None
        try:
            client = dependencies.connect()
            sent = time.time()
            answer = client.handshake(request)
            ahead = answer["time"] - (sent + time.time()) / 2  # how far the learner's clock is ahead
            return client, answer | {"ahead": ahead}
        except LearnerLostError as error:
            if client:
                client.close()
            now = time.monotonic()
            if now - began > seconds:
                raise LearnerLostError(
                    f"no learner for {seconds:.0f} s (--reconnect_seconds); last error: {error}"
                ) from None
            if now - logged > LOG_INTERVAL_SECONDS:
                logger.warning("no learner yet, tried for %.0f s of %.0f: %s", now - began, seconds, error)
                logged = now
            time.sleep(pause)
            pause = min(2 * pause, longest)
