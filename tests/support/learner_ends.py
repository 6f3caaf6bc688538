"""Real ends of a learner in a test's process, and valid messages to them, from which nonsense is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from agents import make_agent
from mlma.acting.inference_server import InferenceServer
from mlma.core.config import Config, parse
from mlma.core.flat_weights import FlatWeights, build_variables
from mlma.core.presets.resolve import resolve
from mlma.core.record_layout import RecordLayout, trajectory_layout, trajectory_spec
from mlma.core.types import Agent, ArraySpec, EnvSpec, NetworkState
from mlma.envs.registry import env_spec
from mlma.learning.admission import ActorAdmission
from mlma.learning.run_state import SeedAllocator
from mlma.learning.trajectory_receiver import TrajectoryReceiver
from mlma.monitoring.phase_timer import ACTOR_PHASES, PhaseTimer
from mlma.transport.client import Client
from mlma.transport.handshake import handshake_request
from mlma.transport.inference_messages import inference_layouts
from mlma.transport.messages import pack, unpack
from mlma.transport.server import Server
from tests.support.runs import SMALL, wait_for
from tests.support.samples import make_metrics
from tests.support.servers import SERVERS

SPEC = EnvSpec(
    ArraySpec((3,), "float32"), num_actions=3, action_repeats=4, extras={"vector": ArraySpec((2,), "float32")}
)
CORE = NetworkState(None, (tf.zeros([1, 4]), tf.zeros([1, 4])))
LAYOUT = RecordLayout(trajectory_spec(SPEC, CORE, 5, with_priorities=True))
VERSION = 10  # of the weights
HEADER: dict[str, Any] = {"task": 3, "part": 0, "parts": 1, "dropped": 0, "phases": PhaseTimer(*ACTOR_PHASES).seconds}
PHASES = HEADER["phases"]


def valid_records(layout: RecordLayout = LAYOUT, task: int = 3) -> Any:
    """Two trajectories of an actor, in which nothing is wrong."""
    records = layout.empty(2)
    view = layout.view(records)
    view.actor_id[:], view.env_index[:], view.env_stream_id[:] = task, [0, 1], [70, 71]
    view.timesteps.episode_return[:] = np.nan
    return records


class LearnerEnd:
    """A real server and receiver, and a client that is connected to it."""

    def __init__(self, folder: Path) -> None:
        self.metrics, self.inserted = make_metrics(), 0
        self.failures: list[BaseException] = []
        server = Server(f"unix:{folder}/socket", "secret", lambda request: {})
        SERVERS.append(server)
        server.publish(VERSION, tf.zeros([1]))
        server.start()
        self.receiver = TrajectoryReceiver(
            server.receive, self._insert, LAYOUT, SPEC, self.metrics, self.failures.append,
            latest_version=lambda: VERSION,
        )  # fmt: skip
        self.client = Client(f"unix:{folder}/socket", "secret", 30)

    def _insert(self, records: Any) -> None:
        self.inserted += len(records)

    def expect_refused(self, message: bytes, reason: str) -> None:
        """Sends the message, and then a valid one, which must arrive."""
        before, inserted = dict(self.metrics._faults), self.inserted
        self.client.put(message)
        self.client.put(pack(HEADER, valid_records().tobytes()))
        wait_for(lambda: self.inserted > inserted, 20, lambda: "the valid message did not arrive")
        counts = self.metrics._faults
        new = {name: count - before.get(name, 0) for name, count in counts.items() if count != before.get(name, 0)}
        assert new == {"messages_refused": 1, f"refused_{reason}": 1}
        assert self.inserted == inserted + 2
        assert not self.failures


FLAGS = [*SMALL, "--inference=learner", "--num_actors=2"]


class Door:
    """A real server, admission and inference server in this process, as a learner has them."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.config, self.spec, self.layout, agent = prepare(*more)
        self.metrics = make_metrics()
        self.inference = InferenceServer(self.config, self.spec, agent, self.metrics.refusals)
        weights = FlatWeights(agent.network)
        self.request = handshake_request(self.config, self.layout, weights) | {"task": 0, "envs": 8, "host": "lab"}
        expected = handshake_request(self.config, self.layout, weights)
        self.failures: list[BaseException] = []
        admission = ActorAdmission(
            self.config, expected, 0, 1, SeedAllocator(1), self.inference, self.metrics, self.failures.append
        )
        self.server = Server(f"unix:{folder}/socket", "secret", admission, self.inference, admission.refuse)
        SERVERS.append(self.server)
        self.server.publish(0, weights.read())
        self.server.start()
        self.client = Client(f"unix:{folder}/socket", "secret", 30)

    def handshake(self, **changes: Any) -> dict[str, Any]:
        """The answer to a handshake over the socket."""
        return unpack(self.client._call("handshake", self.client._secret, pack(self.request | changes)).numpy())[0]

    def valid_request(self, session: int) -> bytes:
        """A message that asks for actions."""
        layout, _ = inference_layouts(self.spec, 8)
        return pack({"session": session}, layout.empty(1).tobytes())

    def infer(self, message: bytes) -> dict[str, Any]:
        """The header of the reply."""
        return unpack(self.client.infer(message)[0])[0]

    def counted(self, reason: str) -> int:
        """Refusals so far."""
        return self.metrics._faults[f"refused_{reason}"]


def prepare(*more: str) -> tuple[Config, EnvSpec, RecordLayout, Agent]:
    """What a learner with FLAGS builds first."""
    config = parse([*FLAGS, *more])
    spec = env_spec(config.environment)
    config = resolve(config, spec, cores=2)
    agent = make_agent(config, spec)
    build_variables(agent, spec)
    return config, spec, trajectory_layout(spec, agent, config.learner.unroll_length), agent
