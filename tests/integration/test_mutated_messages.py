"""100,000 mutations of valid messages, with the token and with right checksums: a learner survives them all."""

from __future__ import annotations

import collections
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlma.core.flat_weights import FlatWeights
from mlma.core.record_layout import RecordLayout
from mlma.core.refusal import REASONS
from mlma.core.types import EnvSpec
from mlma.learning.trajectory_receiver import TrajectoryReceiver
from mlma.transport.client import Client
from mlma.transport.handshake import handshake_request
from mlma.transport.inference_messages import inference_layouts
from tests.support.learner_ends import FLAGS, HEADER, PHASES, Door, prepare, valid_records
from tests.support.memory import PeakMemory
from tests.support.mutations import Mutator
from tests.support.runs import Process, frames, rows, wait_for, wait_for_progress

NUM_MUTATIONS = 100_000
THROUGH_THE_SOCKET = 6_000


def mutators(session: int, request: dict[str, Any], spec: EnvSpec, layout: RecordLayout) -> dict[str, Mutator]:
    """Variations of a valid message to each of the three methods, by the name of the method."""
    header, infer_layout = HEADER | {"task": 7, "events": [["send", 1.0, 2.0]]}, inference_layouts(spec, 8)[0]
    return {
        "put": Mutator(header, valid_records(layout, task=7).tobytes(), layout, seed=1),
        "infer": Mutator({"session": session, "phases": PHASES}, infer_layout.empty(1).tobytes(), infer_layout, seed=2),
        "handshake": Mutator(request, b"", None, seed=3),
    }


def test_mutated_messages_are_refused_or_harmless_within_the_learner(tmp_path: Path) -> None:
    """Most of the mutations, by the methods that the server calls: faster than through a socket."""
    door, inserted = Door(tmp_path), collections.Counter[str]()
    receiver = TrajectoryReceiver(
        lambda: None, lambda records: inserted.update(put=len(records)), door.layout, door.spec, door.metrics,
        door.failures.append, latest_version=lambda: 0,
    )  # fmt: skip
    session = door.handshake(task=7)["session"]
    methods: dict[str, Callable[[bytes], Any]] = {
        "put": receiver.take,
        "infer": door.inference._read_request,
        "handshake": door.server._answer_handshake,
    }
    made = mutators(session, door.request | {"task": 7}, door.spec, door.layout)
    memory, shares = PeakMemory(), {"put": 0.6, "infer": 0.3, "handshake": 0.1}
    for method, mutator in made.items():
        for _ in range(int(shares[method] * (NUM_MUTATIONS - THROUGH_THE_SOCKET))):
            methods[method](mutator.message())
            if method == "infer" and session in door.inference.sessions._sessions:
                door.inference.sessions.get(session).timestep = None  # as after the reply
    counts = door.metrics._faults
    assert counts["messages_refused"] == sum(counts[f"refused_{reason}"] for reason in REASONS)
    assert counts["messages_refused"] > 0.6 * (NUM_MUTATIONS - THROUGH_THE_SOCKET)
    for reason in ("malformed", "header", "actor", "parts", "not_finite", "out_of_range", "handshake", "session"):
        assert counts[f"refused_{reason}"] > 10, reason
    assert inserted["put"] > 0, "a flipped bit may give another valid message"
    assert memory.growth() < 200e6
    assert not door.failures


def start_attack(folder: Path) -> tuple[Process, Process]:
    """A real learner and a real actor that behaves well."""
    both, secret = [*FLAGS, f"--learner_host=unix:{folder}/socket"], {"MLMA_TOKEN": "secret"}
    learning = [*both, "--job_name=learner", "--task=0", f"--logdir={folder}/run", "--total_environment_frames=1e9"]
    learner = Process(folder, "learner", *learning, env=secret)
    return learner, Process(folder, "actor", *both, "--job_name=actor", "--task=0", env=secret)


def test_training_goes_on_while_a_bad_actor_sends_thousands_of_mutated_messages(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    learner, actor = start_attack(tmp_path)
    with learner, actor:
        wait_for_progress(learner, logdir)
        began, memory = time.monotonic(), PeakMemory(learner.process.pid)
        config, spec, layout, agent = prepare()
        weights = FlatWeights(agent.network)
        request = handshake_request(config, layout, weights) | {"task": 7, "envs": 8, "host": "bad"}
        client = Client(f"unix:{tmp_path}/socket", "secret", 30)
        made = mutators(client.handshake(request)["session"], request, spec, layout)
        rng, trained = np.random.default_rng(4), frames(logdir)
        for _ in range(THROUGH_THE_SOCKET):
            method = ("put", "infer", "handshake")[int(rng.choice(3, p=[0.7, 0.2, 0.1]))]
            message = made[method].message()
            if method == "put":
                client.put(message)
            else:
                client._call(method, client._secret, message)
        seconds = time.monotonic() - began
        print(f"{THROUGH_THE_SOCKET} messages through the socket in {seconds:.1f} s")
        assert frames(logdir) > trained
        wait_for_progress(learner, logdir)
        wait_for(lambda: adds_up(rows(logdir)[-1]), 30, lambda: str(rows(logdir)[-1]), learner)
        refused = rows(logdir)[-1]["faults/messages_refused"]
        assert refused > 0.6 * THROUGH_THE_SOCKET
        assert memory.growth() < 200e6
        assert_few_lines(logdir / "events.log", seconds)
        learner.signal(2)
        assert learner.wait() == 0, learner.text()
        assert actor.process.poll() is None, "an actor waits for a learner that comes back"


def adds_up(row: dict[str, float]) -> bool:
    """Whether the refusals by reason give the sum; a report may come between the two counts."""
    by_reason = [row.get(f"faults/refused_{reason}", 0.0) for reason in REASONS]
    return bool(np.nansum(by_reason) == row["faults/messages_refused"])


def assert_few_lines(log: Path, seconds: float) -> None:
    """Each kind of refusal has one line in a minute at most, and none is long."""
    lines = [line for line in log.read_text().splitlines() if " refused " in line]
    kinds = collections.Counter(
        re.sub(r".* refused (.*actor)( \d+)?: .* \((\w+)(; .*)?\)$", r"\1\2 \3", line) for line in lines
    )
    assert len(kinds) >= 5
    assert max(kinds.values()) <= 2 + seconds / 60, kinds
    assert all(len(line) < 350 and line.isprintable() for line in lines)
