"""The actor: steps E environments with one inference for all; what happened goes to its learner.

It never initialises weights: it acts only with weights that it fetched, or has its learner act. A learner that goes away is
looked for again. Not here: what plays (mlma/acting/local_policy.py), the algorithm (agents/), the environments (mlma/envs/), how bytes
travel (mlma/transport/server.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mlma.acting.action_noise import NoiseGenerator
from mlma.acting.local_policy import LocalPolicy
from mlma.acting.remote_policy import RemotePolicy
from mlma.acting.telemetry import LOG_INTERVAL_SECONDS, Instruments, ThroughputLogger
from mlma.acting.trajectory_writer import TrajectoryWriter, env_indices
from mlma.core.config.config import Config
from mlma.core.flat_weights import FlatWeights, build_variables
from mlma.core.record_layout import RecordLayout, trajectory_layout
from mlma.core.types import ActOutput, Agent, EnvSpec, TimeStep, VectorEnv
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.phase_timer import ACTOR_PHASES, PhaseTimer
from mlma.transport.client import Client
from mlma.transport.protocol import CALL_TIMEOUT_SECONDS, LearnerLostError
from mlma.utils.tf_function import CachedGraph, tf_function

RECONNECT_BACKOFF_SECONDS = (0.2, 5.0)  # seconds between two tries to connect: first, longest
StepObserver = Callable[[VectorEnv, TimeStep, ActOutput], None]  # sees each step: mlma.evaluation.video.TrainingVideoRecorder


class ActorDependencies(NamedTuple):
    """What an actor needs of the outside."""

    make_env: Callable[[int, Any], VectorEnv]  # of a seed, which the learner hands out, and which of all environments those are
    connect: Callable[[], Client]
    hello: Callable[[RecordLayout, FlatWeights], dict[str, Any]]
    say: Callable[[str], None]
    pulse: Heartbeat
    recorder: StepObserver | None = None


def run_environment_loop(config: Config, spec: EnvSpec, agent: Agent, outside: ActorDependencies) -> None:
    """Acts until the learner says that training is over."""
    build_variables(agent, spec)
    weights = FlatWeights(agent.network)
    layout = trajectory_layout(spec, agent, config.unroll_length)
    errors = tf_function(agent.errors)
    act = CachedGraph(agent.act)
    while True:
        client, answer = _connect(outside, outside.hello(layout, weights), config.reconnect_seconds)
        if "finished" in answer:
            client.close()
            outside.say("training is over")
            return
        outside.say(f"connected to {config.learner_host}")
        mine = env_indices(answer["actor"], answer["actors"], config.envs_per_actor)
        env = outside.make_env(answer["seed"], mine)
        try:
            phases = PhaseTimer(*ACTOR_PHASES)
            first = answer["actor"] == 0
            if first and config.profile:
                phases.events, phases.epoch = [], phases.epoch + answer["ahead"]
            watch = Instruments(
                phases, outside.pulse, ThroughputLogger(env.num_envs * config.unroll_length * spec.action_repeats, outside.say)
            )
            chances = NoiseGenerator(answer["seed"], agent.epsilons(mine, answer["actors"] * env.num_envs))
            if config.inference == "learner":
                player: LocalPolicy | RemotePolicy = RemotePolicy(config, spec, answer["session"], chances, client, watch)
            else:
                trajectories = TrajectoryWriter(
                    layout, env.num_envs, config.unroll_length, config.task, mine, answer["seed"], errors
                )
                player = LocalPolicy(
                    config, act, agent.initial_state(env.num_envs), weights, trajectories, chances, client, watch
                )
            _step_environments(env, player, phases, outside.recorder if first else None)
            outside.say("training is over")
            return
        except LearnerLostError as error:
            outside.say(f"lost the learner: {error}")
        finally:
            env.close()
            client.close()


def _step_environments(
    env: VectorEnv, player: LocalPolicy | RemotePolicy, phases: PhaseTimer, recorder: StepObserver | None
) -> None:
    """The loop."""
    timestep = env.reset()
    while (output := player(timestep)) is not None:
        if recorder:
            recorder(env, timestep, output)
        timestep = env.step(output.action)
        if (lost := getattr(env, "lost", None)) is not None and lost.any():
            player.drop(lost)
        phases.end("simulate")


def _connect(outside: ActorDependencies, hello: dict[str, Any], seconds: float) -> tuple[Client, dict[str, Any]]:
    """A client that the learner accepted, and its answer; tries again, ever more rarely, for `seconds`."""
    begun = said = time.monotonic()
    pause = RECONNECT_BACKOFF_SECONDS[0]
    while True:
        outside.pulse.waits("its learner", CALL_TIMEOUT_SECONDS)
        client = outside.connect()
        try:
            asked = time.time()
            answer = client.handshake(hello)
            ahead = answer["time"] - (asked + time.time()) / 2  # of the learner's clock
            return client, answer | {"ahead": ahead}
        except LearnerLostError as error:
            client.close()
            now = time.monotonic()
            if now - begun > seconds:
                raise LearnerLostError(f"no learner for {seconds:.0f} s (--reconnect_seconds); last error: {error}") from None
            if now - said > LOG_INTERVAL_SECONDS:
                outside.say(f"no learner yet, tried for {now - begun:.0f} s of {seconds:.0f}: {error}")
                said = now
            time.sleep(pause)
            pause = min(2 * pause, RECONNECT_BACKOFF_SECONDS[1])
