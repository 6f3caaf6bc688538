"""`LocalPolicy` runs the network in the actor, with weights fetched from the learner, and sends trajectories.

It draws the same action noise as `RemotePolicy`, so both act alike. Not here: the loop over environments
(mlma/acting/environment_loop.py), the learner's end (mlma/transport/server.py).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from mlma.acting.action_noise import NoiseGenerator
from mlma.acting.telemetry import Instruments
from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.flat_weights import FlatWeights
from mlma.core.types import ActOutput, TimeStep
from mlma.transport.client import Client
from mlma.transport.messages import split_message
from mlma.transport.protocol import CALL_TIMEOUT_SECONDS, TRAINING_OVER, LearnerLostError
from mlma.utils.tf_function import CachedGraph

LOCKSTEP_POLL_SECONDS = 0.002  # between two queries for newer weights in lockstep
NO_WEIGHTS = -100  # weights_version before the first fetch
NO_ROOM = "the learner to take trajectories"  # what an actor waits for; meanwhile it checks that the learner answers


class LocalPolicy:
    """Maps time steps to actions with the actor's own copy of the network."""

    def __init__(
        self,
        actor_id: int,
        act: CachedGraph,
        agent_state: Any,
        weights: FlatWeights,
        trajectories: TrajectoryWriter,
        noise: NoiseGenerator,
        client: Client,
        instruments: Instruments,
        lockstep: bool,
    ) -> None:
        """In `lockstep`, newer weights are waited for after each set of trajectories."""
        self._actor_id, self._act, self._agent_state = actor_id, act, agent_state
        self._weights, self._trajectories, self._noise = weights, trajectories, noise
        self._client, self._instruments, self._lockstep = client, instruments, lockstep
        # A call takes a minute at most, but a slow network may need several for all parts of the weights.
        self._beat = functools.partial(instruments.heartbeat.waiting_for, "the learner's weights", CALL_TIMEOUT_SECONDS)
        fetch = functools.partial(wait_for_newer_weights, client) if lockstep else client.fetch
        self._fetch = functools.partial(fetch, before_part=self._beat)
        self._version = NO_WEIGHTS

    def __call__(self, timestep: TimeStep) -> ActOutput | None:
        """Actions and network outputs as arrays [E]; None when training is over."""
        timer, heartbeat, throughput, _ = self._instruments
        if self._version == NO_WEIGHTS and not self._fetch_first_weights():
            return None
        tensors, next_state = self._act(timestep.policy_inputs(), self._agent_state, self._noise.draw())
        output = ActOutput(*(tensor.numpy() for tensor in tensors))
        timer.lap("infer")
        if self._trajectories.add(timestep, output, self._agent_state, self._version):
            self._send()
            throughput.add()
            self._version, data = self._fetch(self._version)
            if self._version == TRAINING_OVER:
                return None
            if data is not None:
                self._weights.write(data)
            heartbeat.progress(throughput.total)
            timer.lap("fetch")
            # Step T of these trajectories is step 0 of the next ones.
            self._trajectories.add(timestep, output, self._agent_state, self._version)
        self._agent_state = next_state
        timer.lap("send")
        return output

    def drop(self, environments: Any) -> None:
        """Drops the current trajectories of these environments (bool [E]), which were replaced in the last step."""
        if self._lockstep:  # the learner's round would wait for the lost trajectories
            raise RuntimeError("--deterministic: an environment was replaced, and its current trajectory is lost")
        self._trajectories.drop(environments)

    def _fetch_first_weights(self) -> bool:
        """Whether training continues."""
        self._version, data = self._client.fetch(NO_WEIGHTS, self._beat)
        if self._version == TRAINING_OVER:
            return False
        if data is None:
            raise LearnerLostError("it has no weights for us")
        self._weights.write(data)
        self._instruments.heartbeat.busy()
        return True

    def _send(self) -> None:
        timer, heartbeat, _, level_cache = self._instruments
        for payload in self._trajectories.messages():
            header = {"task": self._actor_id, "dropped": self._trajectories.dropped()}
            header |= timer.snapshot() | level_cache.news()
            for message in split_message(header, payload):
                timer.lap("send")
                self._client.put(message, on_wait=lambda: heartbeat.waiting_for(NO_ROOM, CALL_TIMEOUT_SECONDS))
                timer.lap("wait")


def wait_for_newer_weights(client: Client, have: int, before_part: Callable[[], None]) -> tuple[int, bytes | None]:
    """Fetches weights newer than version `have`, as `Client.fetch`; waits until there are any."""
    while True:
        version, data = client.fetch(have, before_part)
        if data is not None or version == TRAINING_OVER:
            return version, data
        time.sleep(LOCKSTEP_POLL_SECONDS)
