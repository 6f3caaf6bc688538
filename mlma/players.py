"""What plays: it is shown a time step and says what to do. `Own` has a network of its own; `Asking` has its learner answer.

Both draw chance themselves, so that they play the same. Not here: the loop and the environments (mlma/actor.py), the learner's
end (mlma/transport.py, mlma/inference.py).
"""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import numpy as np

from mlma import questions, wire
from mlma.chances import Chances
from mlma.config import Config
from mlma.graph import Flat
from mlma.health import Pulse
from mlma.phases import Phases
from mlma.speed import Speed
from mlma.trajectories import Trajectories
from mlma.transport import FINISHED, Client, LearnerLost
from mlma.types import ActOutput, EnvSpec, TimeStep
from mlma.weights import FlatWeights

CALL_SECONDS = 60.0  # a call that takes longer means that the learner is gone
TURN = 0.002  # seconds between two looks at whether the learner's turn is over
NONE = -100  # the version of a player without weights


class Watch(NamedTuple):
    """Those who look on while an actor plays."""

    phases: Phases
    pulse: Pulse
    speed: Speed


class Own:
    """Acts with weights that it fetches, and sends trajectories."""

    def __init__(
        self,
        config: Config,
        act: Flat,
        agent_state: Any,
        weights: FlatWeights,
        trajectories: Trajectories,
        chances: Chances,
        client: Client,
        watch: Watch,
    ) -> None:
        self._task, self._act, self._state = config.task, act, agent_state
        self._weights, self._trajectories = weights, trajectories
        self._chances, self._client, self._watch = chances, client, watch
        self._fetch = functools.partial(newer, client) if config.deterministic else client.fetch
        self._version, self._deterministic = NONE, config.deterministic

    def __call__(self, timestep: TimeStep) -> ActOutput | None:
        """What it does, as arrays [E]; None when training is over."""
        phases, pulse, speed = self._watch
        if self._version == NONE and not self._first_weights():
            return None
        tensors, state = self._act(timestep.seen(), self._state, self._chances.draw())
        output = ActOutput(*(each.numpy() for each in tensors))
        phases.end("infer")
        if self._trajectories.add(timestep, output, self._state, self._version):
            self._send()
            speed.add()
            pulse.waits("the learner's weights", CALL_SECONDS)
            self._version, data = self._fetch(self._version)
            if self._version == FINISHED:
                return None
            if data is not None:
                self._weights.write(data)
            pulse.progressed(speed.total)
            phases.end("fetch")
            self._trajectories.add(timestep, output, self._state, self._version)  # step T is step 0 of the next ones
        self._state = state
        phases.end("send")
        return output

    def drop(self, environments: Any) -> None:
        """These (bool [E]) were replaced in the last step."""
        if self._deterministic:  # the learner's turn would wait for what is lost
            raise RuntimeError("--deterministic: an environment was replaced, and what it had played is lost")
        self._trajectories.drop(environments)

    def _first_weights(self) -> bool:
        """Whether training goes on."""
        self._version, data = self._client.fetch(have=NONE)
        if self._version == FINISHED:
            return False
        if data is None:
            raise LearnerLost("it has no weights for us")
        self._weights.write(data)
        self._watch.pulse.works()
        return True

    def _send(self) -> None:
        phases, pulse, _ = self._watch
        for payload in self._trajectories.messages():
            header = {"task": self._task, "dropped": self._trajectories.dropped(), **phases.told()}
            for message in wire.messages(header, payload):
                phases.end("send")
                self._client.put(message, waiting=lambda: pulse.waits("the learner to take trajectories"))
                phases.end("wait")


def newer(client: Client, have: int) -> tuple[int, bytes | None]:
    """Weights newer than those, once there are any: the learner's turn is over."""
    while True:
        version, data = client.fetch(have)
        if data is not None or version == FINISHED:
            return version, data
        time.sleep(TURN)


class Asking:
    """Shows its learner what it sees, and does what it is told; the learner fills the trajectories."""

    def __init__(self, config: Config, spec: EnvSpec, session: int, chances: Chances, client: Client, watch: Watch) -> None:
        self._question, self._reply = questions.layouts(spec, config.envs_per_actor)
        self._record = self._question.empty(1)
        self._bytes = memoryview(self._record.view(np.uint8))
        self._asked = self._question.view(self._record)
        self._session, self._unroll = session, config.unroll_length
        self._chances, self._client, self._watch = chances, client, watch
        self._count = 0

    def __call__(self, timestep: TimeStep) -> ActOutput | None:
        """See Own."""
        phases, pulse, speed = self._watch
        asked = self._asked
        for field, value in zip((*asked.timestep[:-1], *asked.chance), (*timestep[:-1], *self._chances.draw()), strict=True):
            field[0] = value
        for name, field in asked.timestep.more.items():
            field[0] = timestep.more[name]
        complete = self._count > 0 and self._count % self._unroll == 0
        header = {"session": self._session} | (phases.told() if complete else {})
        message = wire.pack(header, self._bytes)
        asked.lost[:] = False
        phases.end("send")
        pulse.waits("the learner's actions", CALL_SECONDS)
        answer, waited = self._client.infer(message)
        phases.end("infer")
        phases.move("infer", "wait", waited)
        found, payload = wire.unpack(answer)
        if found.get("finished"):
            return None
        if "refused" in found:
            raise LearnerLost(found["refused"])
        self._count += 1
        if complete:
            speed.add()
            pulse.progressed(speed.total)
        else:
            pulse.works()
        (record,) = self._reply.from_bytes(payload)
        return ActOutput(*(np.array(field) for field in self._reply.view(record)))

    def drop(self, environments: Any) -> None:
        self._asked.lost[0] |= environments
