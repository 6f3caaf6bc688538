"""`RemotePolicy` sends each observation to the learner's inference server and returns its actions (`--inference=learner`).

Not here: the server (mlma/acting/inference_server.py), the messages (mlma/transport/inference_messages.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlma.acting.action_noise import NoiseGenerator
from mlma.acting.telemetry import Instruments
from mlma.core.config.config import Config
from mlma.core.types import ActOutput, EnvSpec, TimeStep
from mlma.transport.client import Client
from mlma.transport.inference_messages import inference_layouts
from mlma.transport.messages import pack, unpack
from mlma.transport.protocol import CALL_TIMEOUT_SECONDS, LearnerLostError


class RemotePolicy:
    """Shows its learner what it sees, and does what it is told; the learner fills the trajectories."""

    def __init__(
        self, config: Config, spec: EnvSpec, session: int, chances: NoiseGenerator, client: Client, watch: Instruments
    ) -> None:
        self._question, self._reply = inference_layouts(spec, config.envs_per_actor)
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
        message = pack(header, self._bytes)
        asked.lost[:] = False
        phases.end("send")
        pulse.waits("the learner's actions", CALL_TIMEOUT_SECONDS)
        answer, waited = self._client.infer(message)
        phases.end("infer")
        phases.move("infer", "wait", waited)
        found, payload = unpack(answer)
        if found.get("finished"):
            return None
        if "refused" in found:
            raise LearnerLostError(found["refused"])
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
