"""The actor: steps E environments with one inference for all; what happened goes to its learner.

It never initialises weights: it acts only with weights that it fetched, or has its learner act. A learner that goes away is
looked for again. Not here: what plays (mlma/players.py), the algorithm (agents/), the environments (mlma/envs/), how bytes
travel (mlma/transport.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mlma import wire
from mlma.chances import Chances
from mlma.config import Config
from mlma.graph import Flat, graph
from mlma.health import Pulse
from mlma.phases import ACTOR, Phases
from mlma.players import CALL_SECONDS, Asking, Own, Watch
from mlma.speed import SAY_EVERY, Speed
from mlma.trajectories import Trajectories, places
from mlma.transport import Client, LearnerLost
from mlma.types import ActOutput, Agent, EnvSpec, TimeStep, VectorEnv
from mlma.weights import FlatWeights, build

BACK_OFF = (0.2, 5.0)  # seconds between two tries to connect: first, longest
Recorder = Callable[[VectorEnv, TimeStep, ActOutput], None]  # sees each step: mlma.video.Recorder


class Outside(NamedTuple):
    """What an actor needs of the outside."""

    make_env: Callable[[int, Any], VectorEnv]  # of a seed, which the learner hands out, and which of all environments those are
    connect: Callable[[], Client]
    hello: Callable[[wire.Layout, FlatWeights], dict[str, Any]]
    say: Callable[[str], None]
    pulse: Pulse
    recorder: Recorder | None = None


def run(config: Config, spec: EnvSpec, agent: Agent, outside: Outside) -> None:
    """Acts until the learner says that training is over."""
    build(agent, spec)
    weights = FlatWeights(agent.network)
    layout = wire.layout_of(spec, agent, config.unroll_length)
    errors = graph(agent.errors)
    act = Flat(agent.act)
    while True:
        client, answer = _handshake(outside, outside.hello(layout, weights), config.reconnect_seconds)
        if "finished" in answer:
            client.close()
            outside.say("training is over")
            return
        outside.say(f"connected to {config.learner_host}")
        mine = places(answer["actor"], answer["actors"], config.envs_per_actor)
        env = outside.make_env(answer["seed"], mine)
        try:
            phases = Phases(*ACTOR)
            first = answer["actor"] == 0
            if first and config.profile:
                phases.events, phases.epoch = [], phases.epoch + answer["ahead"]
            watch = Watch(phases, outside.pulse, Speed(env.num_envs * config.unroll_length * spec.action_repeats, outside.say))
            chances = Chances(answer["seed"], agent.epsilons(mine, answer["actors"] * env.num_envs))
            if config.inference == "learner":
                player: Own | Asking = Asking(config, spec, answer["session"], chances, client, watch)
            else:
                trajectories = Trajectories(
                    layout, env.num_envs, config.unroll_length, config.task, mine, answer["seed"], errors
                )
                player = Own(config, act, agent.initial_state(env.num_envs), weights, trajectories, chances, client, watch)
            _play(env, player, phases, outside.recorder if first else None)
            outside.say("training is over")
            return
        except LearnerLost as error:
            outside.say(f"lost the learner: {error}")
        finally:
            env.close()
            client.close()


def _play(env: VectorEnv, player: Own | Asking, phases: Phases, recorder: Recorder | None) -> None:
    """The loop."""
    timestep = env.reset()
    while (output := player(timestep)) is not None:
        if recorder:
            recorder(env, timestep, output)
        timestep = env.step(output.action)
        if (lost := getattr(env, "lost", None)) is not None and lost.any():
            player.drop(lost)
        phases.end("simulate")


def _handshake(outside: Outside, hello: dict[str, Any], seconds: float) -> tuple[Client, dict[str, Any]]:
    """A client that the learner accepted, and its answer; tries again, ever more rarely, for `seconds`."""
    begun = said = time.monotonic()
    pause = BACK_OFF[0]
    while True:
        outside.pulse.waits("its learner", CALL_SECONDS)
        client = outside.connect()
        try:
            asked = time.time()
            answer = client.handshake(hello)
            ahead = answer["time"] - (asked + time.time()) / 2  # of the learner's clock
            return client, answer | {"ahead": ahead}
        except LearnerLost as error:
            client.close()
            now = time.monotonic()
            if now - begun > seconds:
                raise LearnerLost(f"no learner for {seconds:.0f} s (--reconnect_seconds); last error: {error}") from None
            if now - said > SAY_EVERY:
                outside.say(f"no learner yet, tried for {now - begun:.0f} s of {seconds:.0f}: {error}")
                said = now
            time.sleep(pause)
            pause = min(2 * pause, BACK_OFF[1])
