"""`RemotePolicy` sends each observation to the learner's inference server and returns its actions
(`--inference=learner`).

The server writes the trajectories. Not here: the server (mlma/acting/inference_server.py), the messages
(mlma/transport/inference_messages.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlma.acting.action_noise import NoiseGenerator
from mlma.acting.telemetry import Instruments
from mlma.core.types import ActOutput, EnvSpec, TimeStep
from mlma.transport.client import Client
from mlma.transport.inference_messages import inference_layouts
from mlma.transport.messages import pack, unpack
from mlma.transport.protocol import CALL_TIMEOUT_SECONDS, LearnerLostError


class RemotePolicy:
    """Maps time steps to actions through requests to the learner."""

    def __init__(
        self,
        spec: EnvSpec,
        num_envs: int,
        unroll_length: int,
        session: int,
        noise: NoiseGenerator,
        client: Client,
        instruments: Instruments,
    ) -> None:
        request_layout, self._reply_layout = inference_layouts(spec, num_envs)
        record = request_layout.empty(1)
        self._bytes = memoryview(record.view(np.uint8))
        self._request = request_layout.view(record)
        self._session, self._unroll_length = session, unroll_length
        self._noise, self._client, self._instruments = noise, client, instruments
        self._count = 0

    def __call__(self, timestep: TimeStep) -> ActOutput | None:
        """Actions and network outputs as arrays [E]; None when training is over."""
        timer, heartbeat, throughput, level_cache = self._instruments
        self._fill_request(timestep)
        complete = self._count > 0 and self._count % self._unroll_length == 0
        report = timer.snapshot() | level_cache.news() if complete else {}
        message = pack({"session": self._session} | report, self._bytes)
        self._request.crashed[:] = False
        timer.lap("send")
        self._wait_for_actions()
        reply, waited = self._client.infer(message, on_wait=self._wait_for_actions)
        timer.lap("infer")
        # The learner measured it, with a clock that may have been set in between.
        timer.reattribute("infer", "wait", min(max(waited, 0.0), timer.seconds["infer"]))
        header, payload = unpack(reply)
        if header.get("finished"):
            return None
        if "refused" in header:
            raise LearnerLostError(header["refused"])
        self._count += 1
        if complete:
            throughput.add()
            heartbeat.progress(throughput.total)
        else:
            heartbeat.busy()
        (record,) = self._reply_layout.from_bytes(payload)
        return ActOutput(*(np.array(field) for field in self._reply_layout.view(record)))

    def drop(self, environments: Any) -> None:
        """Marks these environments (bool [E]) as replaced in the last step."""
        self._request.crashed[0] |= environments

    def _wait_for_actions(self) -> None:
        self._instruments.heartbeat.waiting_for("the learner's actions", CALL_TIMEOUT_SECONDS)

    def _fill_request(self, timestep: TimeStep) -> None:
        request = self._request
        values = (*timestep[:-1], *self._noise.draw())
        for field, value in zip((*request.timestep[:-1], *request.noise), values, strict=True):
            field[0] = value
        for name, field in request.timestep.extras.items():
            field[0] = timestep.extras[name]
