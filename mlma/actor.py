"""The actor: steps E environments with one inference for all, and sends what happened to its learner.

It never initialises weights: it acts only with weights that it fetched. A learner that goes away is looked for again. Not
here: the algorithm (agents/), the environments (mlma/envs/), how bytes travel (mlma/transport.py).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mlma import wire
from mlma.config import Config
from mlma.graph import Flat, graph
from mlma.health import Pulse
from mlma.phases import ACTOR, Phases
from mlma.transport import FINISHED, PART, Client, LearnerLost
from mlma.types import ActOutput, Agent, EnvSpec, TimeStep, VectorEnv
from mlma.weights import FlatWeights, build

CALL_SECONDS = 60.0  # a call that takes longer means that the learner is gone
BACK_OFF = (0.2, 5.0)  # seconds between two tries to connect: first, longest
SAY_EVERY = 30.0
TURN = 0.002  # seconds between two looks at whether the learner's turn is over
Recorder = Callable[[VectorEnv, TimeStep, ActOutput], None]  # sees each step: mlma.video.Recorder
NONE = -100  # the version of an actor without weights


class Trajectories:
    """The trajectories that are being filled: one record per environment, written in place, sent when full."""

    def __init__(
        self,
        layout: wire.Layout,
        num_envs: int,
        unroll_length: int,
        task: int,
        places: Any = 0,
        seed: int = 0,
        errors: Callable[..., Any] | None = None,
    ) -> None:
        """`errors` is the agent's, wanted where the layout has a field for them; `seed` is the environments'."""
        self._records = layout.empty(num_envs)
        self._view = layout.view(self._records)
        self._steps = [*self._view.timesteps[:-1], *self._view.act_outputs]
        self._length, self._t, self._number = unroll_length, 0, 0
        self._view.task[:], self._view.place[:] = task, places
        self._view.stream[:] = seed + np.arange(num_envs)
        self._errors = errors if self._view.errors is not None else None
        self._broken, self._dropped = np.zeros(num_envs, bool), 0
        self._group = max(1, (2**21) // layout.dtype.itemsize)  # trajectories in a message

    def add(self, timestep: Any, output: Any, agent_state: Any, weights_version: int) -> bool:
        """Writes one step of all environments; True when the trajectories are complete. `agent_state` is before the step."""
        if self._t == 0:
            tf.nest.map_structure(_fill, self._view.agent_state, agent_state)
            self._view.weights_version[:] = weights_version
            self._view.number[:] = self._number
            self._number += 1  # also of one that is dropped: no window of a replay crosses the gap
        for field, value in zip(self._steps, (*timestep[:-1], *output), strict=True):
            field[:, self._t] = value
        for name, field in self._view.timesteps.more.items():
            field[:, self._t] = timestep.more[name]
        self._t += 1
        return self._t > self._length

    def messages(self) -> list[memoryview]:
        """The complete trajectories as payloads, but for those that were dropped; the next `add` begins to overwrite them."""
        self._t = 0
        if self._errors:
            steps, acted = self._view.timesteps._replace(observation=None), self._view.act_outputs
            steps, acted = tf.nest.map_structure(_time_first, (steps, acted))  # [T+1, E]
            self._view.errors[:] = self._errors(steps, acted).numpy().T  # [E, T]
        whole = self._records[~self._broken] if self._broken.any() else self._records
        self._broken[:] = False
        raw = [whole[i : i + self._group].view(np.uint8) for i in range(0, len(whole), self._group)]
        return [memoryview(each) for each in raw]

    def drop(self, environments: Any) -> None:
        """The trajectories that these (bool [E]) are in the middle of are broken and will not be sent."""
        self._dropped += int((environments & ~self._broken).sum())
        self._broken |= environments

    def dropped(self) -> int:
        """How many since it was asked for the last time."""
        count, self._dropped = self._dropped, 0
        return count


def places(actor: int, actors: int, num_envs: int) -> Any:
    """Of an actor's environments among those of all actors: dealt out in turn, so that each actor has some of everything."""
    return actor + actors * np.arange(num_envs)


def _time_first(array: Any) -> Any:
    return None if array is None else tf.constant(np.ascontiguousarray(array.swapaxes(0, 1)))


class Speed:
    """Says now and then how fast this actor plays; `mlma.cluster.status` reads it."""

    def __init__(self, frames: int, say: Callable[[str], None]) -> None:
        """`frames` are those of one `add`."""
        self._frames, self._say = frames, say
        self._count, self._since = 0, time.monotonic()
        self.total = 0  # frames

    def add(self) -> None:
        self._count += 1
        self.total += self._frames
        if (seconds := time.monotonic() - self._since) > SAY_EVERY:
            self._say(f"{self._count * self._frames / seconds:,.0f} frames/s")
            self._count, self._since = 0, time.monotonic()


def _fill(field: Any, value: Any) -> None:
    if field is not None:
        field[:] = value


def run(
    config: Config,
    spec: EnvSpec,
    agent: Agent,
    make_env: Callable[[int, Any], VectorEnv],
    connect: Callable[[], Client],
    hello: Callable[[wire.Layout, FlatWeights], dict[str, Any]],
    say: Callable[[str], None],
    pulse: Pulse,
    recorder: Recorder | None = None,
) -> None:
    """Acts until the learner says that training is over. `make_env` takes a seed, which the learner hands out, and which of all
    environments of the run those are."""
    build(agent, spec)
    weights = FlatWeights(agent.network)
    layout = wire.layout_of(spec, agent, config.unroll_length)
    errors = graph(agent.errors)
    act = Flat(agent.act)
    while True:
        client, answer = _handshake(connect, hello(layout, weights), config.reconnect_seconds, say, pulse)
        say(f"connected to {config.learner_host}")
        mine = places(answer["actor"], answer["actors"], config.envs_per_actor)
        if config.deterministic:
            tf.random.set_seed(answer["seed"])
        env = make_env(answer["seed"], mine)
        try:
            agent.explore(mine, answer["actors"] * env.num_envs)
            trajectories = Trajectories(layout, env.num_envs, config.unroll_length, config.task, mine, answer["seed"], errors)
            speed = Speed(env.num_envs * config.unroll_length * spec.action_repeats, say)
            fetch = functools.partial(newer, client) if config.deterministic else client.fetch
            first = answer["actor"] == 0
            phases = Phases(*ACTOR)
            if first and config.profile:
                phases.events, phases.epoch = [], phases.epoch + answer["ahead"]
            film = recorder if first else None
            _act_until_over(env, agent, act, weights, trajectories, client, fetch, config.task, speed, pulse, phases, film)
            say("training is over")
            return
        except LearnerLost as error:
            say(f"lost the learner: {error}")
        finally:
            env.close()
            client.close()


def _act_until_over(
    env: VectorEnv,
    agent: Agent,
    act: Any,
    weights: FlatWeights,
    trajectories: Trajectories,
    client: Client,
    fetch: Callable[[int], tuple[int, bytes | None]],
    task: int,
    speed: Speed,
    pulse: Pulse,
    phases: Phases,
    recorder: Recorder | None = None,
) -> None:
    """The loop."""
    version, data = client.fetch(have=NONE)
    if version == FINISHED:
        return
    if data is None:
        raise LearnerLost("it has no weights for us")
    weights.write(data)
    pulse.works()
    timestep, state = env.reset(), agent.initial_state(env.num_envs)
    while True:
        output, next_state = act(timestep._replace(discount=None, episode_return=None, episode_frames=None), state)
        action = output.action.numpy()
        if recorder:
            recorder(env, timestep, output)
        phases.end("infer")
        if trajectories.add(timestep, output, state, version):
            for payload in trajectories.messages():
                header = {"task": task, "dropped": trajectories.dropped(), **phases.told()}
                for message in wire.messages(header, payload, PART):
                    phases.end("send")
                    client.put(message, waiting=lambda: pulse.waits("the learner to take trajectories"))
                    phases.end("wait")
            speed.add()
            pulse.waits("the learner's weights", CALL_SECONDS)
            version, data = fetch(version)
            if version == FINISHED:
                return
            if data is not None:
                weights.write(data)
            pulse.progressed(speed.total)
            phases.end("fetch")
            trajectories.add(timestep, output, state, version)  # step T is step 0 of the next ones
        phases.end("send")
        timestep, state = env.step(action), next_state
        if (lost := getattr(env, "lost", None)) is not None and lost.any():
            trajectories.drop(lost)
        phases.end("simulate")


def newer(client: Client, have: int) -> tuple[int, bytes | None]:
    """Weights newer than those, once there are any: the learner's turn is over."""
    while True:
        version, data = client.fetch(have)
        if data is not None or version == FINISHED:
            return version, data
        time.sleep(TURN)


def _handshake(
    connect: Callable[[], Client], hello: dict[str, Any], seconds: float, say: Callable[[str], None], pulse: Pulse
) -> tuple[Client, dict[str, Any]]:
    """A client that the learner accepted, and its answer; tries again, ever more rarely, for `seconds`."""
    begun = said = time.monotonic()
    pause = BACK_OFF[0]
    while True:
        pulse.waits("its learner", CALL_SECONDS)
        client = connect()
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
                say(f"no learner yet, tried for {now - begun:.0f} s of {seconds:.0f}: {error}")
                said = now
            time.sleep(pause)
            pause = min(2 * pause, BACK_OFF[1])
