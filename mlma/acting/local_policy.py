"""What plays: it is shown a time step and says what to do. `Own` has a network of its own; `Asking` has its learner answer.

Both draw chance themselves, so that they play the same. Not here: the loop and the environments (mlma/acting/environment_loop.py), the learner's
end (mlma/transport/server.py, mlma/acting/inference_server.py).
"""

from __future__ import annotations

import functools
import time
from typing import Any

from mlma.acting.action_noise import NoiseGenerator
from mlma.acting.telemetry import Instruments
from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.config.config import Config
from mlma.core.flat_weights import FlatWeights
from mlma.core.types import ActOutput, TimeStep
from mlma.transport.client import Client
from mlma.transport.messages import split_message
from mlma.transport.protocol import CALL_TIMEOUT_SECONDS, TRAINING_OVER, LearnerLostError
from mlma.utils.tf_function import CachedGraph

LOCKSTEP_POLL_SECONDS = 0.002  # seconds between two looks at whether the learner's turn is over
NO_WEIGHTS = -100  # the version of a player without weights


class LocalPolicy:
    """Acts with weights that it fetches, and sends trajectories."""

    def __init__(
        self,
        config: Config,
        act: CachedGraph,
        agent_state: Any,
        weights: FlatWeights,
        trajectories: TrajectoryWriter,
        chances: NoiseGenerator,
        client: Client,
        watch: Instruments,
    ) -> None:
        self._task, self._act, self._state = config.task, act, agent_state
        self._weights, self._trajectories = weights, trajectories
        self._chances, self._client, self._watch = chances, client, watch
        self._fetch = functools.partial(wait_for_newer_weights, client) if config.deterministic else client.fetch
        self._version, self._deterministic = NO_WEIGHTS, config.deterministic

    def __call__(self, timestep: TimeStep) -> ActOutput | None:
        """What it does, as arrays [E]; None when training is over."""
        phases, pulse, speed = self._watch
        if self._version == NO_WEIGHTS and not self._first_weights():
            return None
        tensors, state = self._act(timestep.seen(), self._state, self._chances.draw())
        output = ActOutput(*(each.numpy() for each in tensors))
        phases.end("infer")
        if self._trajectories.add(timestep, output, self._state, self._version):
            self._send()
            speed.add()
            pulse.waits("the learner's weights", CALL_TIMEOUT_SECONDS)
            self._version, data = self._fetch(self._version)
            if self._version == TRAINING_OVER:
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
        self._version, data = self._client.fetch(have=NO_WEIGHTS)
        if self._version == TRAINING_OVER:
            return False
        if data is None:
            raise LearnerLostError("it has no weights for us")
        self._weights.write(data)
        self._watch.pulse.works()
        return True

    def _send(self) -> None:
        phases, pulse, _ = self._watch
        for payload in self._trajectories.messages():
            header = {"task": self._task, "dropped": self._trajectories.dropped(), **phases.told()}
            for message in split_message(header, payload):
                phases.end("send")
                self._client.put(message, waiting=lambda: pulse.waits("the learner to take trajectories"))
                phases.end("wait")


def wait_for_newer_weights(client: Client, have: int) -> tuple[int, bytes | None]:
    """Weights newer than those, once there are any: the learner's turn is over."""
    while True:
        version, data = client.fetch(have)
        if data is not None or version == TRAINING_OVER:
            return version, data
        time.sleep(LOCKSTEP_POLL_SECONDS)
