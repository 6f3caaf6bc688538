"""Actors that have the token and send nonsense: refused, counted by reason, and training goes on."""

from __future__ import annotations

import collections
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents import make_agent
from mlma.acting.inference_server import InferenceServer
from mlma.core.config import Config, parse
from mlma.core.flat_weights import FlatWeights, build_variables
from mlma.core.presets.resolve import resolve
from mlma.core.record_layout import RecordLayout, trajectory_layout, trajectory_spec
from mlma.core.refusal import REASONS
from mlma.core.types import Agent, ArraySpec, EnvSpec, NetworkState
from mlma.envs.registry import env_spec
from mlma.learning.admission import MAX_HANDSHAKES, ActorAdmission
from mlma.learning.run_state import SeedAllocator
from mlma.learning.trajectory_receiver import TrajectoryReceiver
from mlma.monitoring.actor_statistics import MAX_ACTORS
from mlma.monitoring.phase_timer import ACTOR_PHASES, MAX_EVENTS, PhaseTimer
from mlma.transport.client import Client
from mlma.transport.handshake import handshake_request
from mlma.transport.inference_messages import inference_layouts
from mlma.transport.messages import MAX_HEADER_BYTES, pack, split_message, unpack
from mlma.transport.server import MAX_KEPT_VERSIONS, Server
from tests.support.mutations import Mutator, frame
from tests.support.runs import SMALL, Process, frames, rows, wait_for, wait_for_progress
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


def resident_bytes(pid: int | str = "self") -> int:
    """The memory of a process."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


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


@pytest.fixture(scope="module")
def learner_end(tmp_path_factory: pytest.TempPathFactory) -> LearnerEnd:
    return LearnerEnd(tmp_path_factory.mktemp("bad_actors"))


HEADERS: dict[str, tuple[dict[str, Any], str]] = {  # name -> (changed fields, reason)
    "dropped is absurd": ({"dropped": 10**400}, "header"),
    "dropped is negative": ({"dropped": -1}, "header"),
    "dropped is a bool": ({"dropped": True}, "header"),
    "dropped is a float": ({"dropped": 1.0}, "header"),
    "dropped is text": ({"dropped": "1"}, "header"),
    "task is negative": ({"task": -1}, "actor"),
    "task is absurd": ({"task": 10**400}, "actor"),
    "task is missing": ({"task": None}, "actor"),
    "task is text": ({"task": "3"}, "actor"),
    "parts without end": ({"parts": 10**9}, "parts"),
    "part beyond parts": ({"part": 1}, "parts"),
    "phases are infinite": ({"phases": PHASES | {"send": 1e999}}, "malformed"),
    "phases overflow": ({"phases": PHASES | {"send": 10**400}}, "header"),
    "phases are negative": ({"phases": PHASES | {"send": -1.0}}, "header"),
    "phases are missing": ({"phases": {"send": 1.0}}, "header"),
    "phases are invented": ({"phases": PHASES | {"more": 1.0}}, "header"),
    "phases are a list": ({"phases": [1.0]}, "header"),
    "too many events": ({"events": [["send", 1, 1]] * (MAX_EVENTS + 1)}, "header"),
    "events of another kind": ({"events": [["\x1b[2J", 1, 1]]}, "header"),
    "events without end": ({"events": [["send", 1, 10**30]]}, "header"),
    "events are an object": ({"events": {}}, "header"),
    "another actor's trajectories": ({"task": 4}, "out_of_range"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_with_nonsense_is_refused(learner_end: LearnerEnd, case: str) -> None:
    changes, reason = HEADERS[case]
    learner_end.expect_refused(pack(HEADER | changes, valid_records().tobytes()), reason)


RAW_HEADERS = {
    "NaN": b'{"task": NaN}',
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "huge": json.dumps(HEADER | {"more": "x" * MAX_HEADER_BYTES}).encode(),
    "number of 5000 digits": b'{"task": ' + b"9" * 5000 + b"}",
    "list": b"[]",
    "not text": b"\xff\xfe",
}


@pytest.mark.parametrize("case", RAW_HEADERS)
def test_a_header_that_is_no_json_object_is_refused(learner_end: LearnerEnd, case: str) -> None:
    learner_end.expect_refused(frame(RAW_HEADERS[case], valid_records().tobytes()), "malformed")


FIELDS: dict[str, tuple[Callable[[Any], Any], list[float], str]] = {  # name -> (field of the view, values, reason)
    "discount not finite": (lambda v: v.timesteps.discount, [np.nan, np.inf], "not_finite"),
    "discount": (lambda v: v.timesteps.discount, [-0.1, 1.5], "out_of_range"),
    "observation not finite": (lambda v: v.timesteps.observation, [np.nan, np.inf, -np.inf], "not_finite"),
    "observation overflows": (lambda v: v.timesteps.observation, [3e38, -3e38], "out_of_range"),
    "vector": (lambda v: v.timesteps.extras["vector"], [np.nan], "not_finite"),
    "reward not finite": (lambda v: v.timesteps.reward, [np.nan, np.inf, -np.inf], "not_finite"),
    "reward overflows": (lambda v: v.timesteps.reward, [3e38], "out_of_range"),
    "logits": (lambda v: v.act_outputs.logits, [np.nan, np.inf], "not_finite"),
    "value": (lambda v: v.act_outputs.value, [np.nan, np.inf], "not_finite"),
    "agent state": (lambda v: v.agent_state.core[1], [np.nan, -np.inf], "not_finite"),
    "action": (lambda v: v.act_outputs.action, [-1, 3], "out_of_range"),
    "last action": (lambda v: v.timesteps.last_action, [-1, 3], "out_of_range"),
    "is_first": (lambda v: v.timesteps.is_first.view(np.uint8), [2, 255], "out_of_range"),
    "episode return": (lambda v: v.timesteps.episode_return, [np.inf, -np.inf], "not_finite"),
    "episode frames": (lambda v: v.timesteps.episode_frames, [-1], "out_of_range"),
    "version": (lambda v: v.weights_version, [-1, VERSION + 1, 2**62], "out_of_range"),
    "actor": (lambda v: v.actor_id, [4, -1], "out_of_range"),
    "environment": (lambda v: v.env_index, [-1, 2**31 - 1], "out_of_range"),
    "stream": (lambda v: v.env_stream_id, [-1, 2**62], "out_of_range"),
    "sequence number": (lambda v: v.sequence_number, [-1, 2**63 - 1], "out_of_range"),
    "priority not finite": (lambda v: v.initial_priorities, [np.nan, np.inf], "not_finite"),
    "priority": (lambda v: v.initial_priorities, [-1.0, 1e30], "out_of_range"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_single_bad_number_in_a_trajectory_is_refused(learner_end: LearnerEnd, case: str) -> None:
    field, values, reason = FIELDS[case]
    for value in values:
        records = valid_records()
        array = field(LAYOUT.view(records))
        array[(-1,) * array.ndim] = value
        learner_end.expect_refused(pack(HEADER, records.tobytes()), reason)


def test_no_trajectories_and_half_a_trajectory_are_refused(learner_end: LearnerEnd) -> None:
    learner_end.expect_refused(pack(HEADER), "header")
    learner_end.expect_refused(pack(HEADER, valid_records().tobytes()[:-1]), "malformed")


def test_too_little_memory_for_a_message_is_a_refusal_and_no_end(tmp_path: Path) -> None:
    end = LearnerEnd(tmp_path)
    insert = end.receiver._insert
    for failure in (MemoryError(), OSError(24, "Too many open files")):

        def fail(records: Any, failure: Exception = failure) -> None:
            end.receiver._insert = insert
            raise failure

        end.receiver._insert = fail
        end.expect_refused(pack(HEADER, valid_records().tobytes()), "memory")


def test_fetching_old_versions_again_and_again_keeps_a_bounded_number_of_them(tmp_path: Path) -> None:
    server = Server(f"unix:{tmp_path}/socket", "secret", lambda request: {})
    SERVERS.append(server)
    fetched = range(3 * MAX_KEPT_VERSIONS)
    for version in fetched:
        server.publish(version, tf.zeros([1]))
        assert server._weights_part(-1, 0)[0] == version
    assert len(server._weights) <= MAX_KEPT_VERSIONS + 1
    assert server._weights_part(fetched[-1], 1)[0] == fetched[-1]
    for part in (-1, 2**62, -(2**63)):
        assert server._weights_part(fetched[-1], part)[2] == b""


def test_unfinished_messages_of_many_actors_take_little_memory() -> None:
    layout = RecordLayout(trajectory_spec(EnvSpec(ArraySpec((300, 350, 1), "uint8"), 4, 1), None, unroll_length=99))
    metrics = make_metrics()
    receiver = TrajectoryReceiver(lambda: None, lambda records: None, layout, SPEC, metrics, lambda error: None)
    first = split_message(HEADER, layout.empty(1).tobytes())[0]
    _, payload = unpack(first)
    before = resident_bytes()
    for actor in range(600):  # 2.1 GB in all
        receiver.take(pack(HEADER | {"task": actor, "parts": 4}, payload))
        receiver.take(pack(HEADER | {"task": actor, "parts": 4, "part": 3}, payload[:100]) if actor % 2 else first)
    assert receiver.parts.held_bytes < 120e6
    assert resident_bytes() - before < 200e6


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


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Door:
    return Door(tmp_path_factory.mktemp("door"))


@pytest.mark.parametrize("envs", [10**9, 10**400, 0, -1, 1.5, True, "8", None, [8], 17_000])
def test_an_absurd_number_of_environments_is_refused_before_anything_is_allocated(door: Door, envs: Any) -> None:
    before = resident_bytes()
    answer = door.handshake(task=1, envs=envs)
    assert "envs" in answer["refused"]
    assert len(answer["refused"]) < 400
    assert resident_bytes() - before < 50e6


@pytest.mark.parametrize("task", [-1, 10**6, 10**400, 1.0, True, "0", None, {}])
def test_an_absurd_task_is_refused(door: Door, task: Any) -> None:
    before = door.counted("actor")
    assert "task" in door.handshake(task=task)["refused"]
    assert door.counted("actor") == before + 1


def test_what_an_actor_calls_itself_stays_on_one_short_line(door: Door, log_lines: Callable[[], list[str]]) -> None:
    nonsense = "\x1b[2J\n" * 5000
    assert "session" in door.handshake(task=1, host=nonsense)
    host = door.metrics.actors._hosts[1]
    assert host.isprintable()
    assert len(host) <= 64
    answer = door.handshake(task=1, level_name=nonsense, width=nonsense, height=[nonsense])
    assert "level_name: actor has" in answer["refused"]
    assert len(json.dumps(answer)) < 1000
    assert all(line.isprintable() and len(line) < 350 for line in log_lines())


def test_a_session_belongs_to_whoever_opened_it_last_and_cannot_be_guessed(door: Door) -> None:
    first, second = door.handshake(task=0)["session"], door.handshake(task=1)["session"]
    assert first != second
    assert min(first, second) > 2**40, "not a counter"
    assert door.infer(door.valid_request(first)) == {}
    again = door.handshake(task=0)["session"]
    before = door.counted("session")
    for guess in (first, 0, 1, again + 1):
        assert "session expired or unknown" in door.infer(door.valid_request(guess))["refused"]
    assert door.counted("session") == before + 4
    for session in (again, second):
        assert door.infer(door.valid_request(session)) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (lambda r: r.timestep.observation, np.nan), (lambda r: r.timestep.reward, np.inf),
        (lambda r: r.timestep.discount, 2.0), (lambda r: r.timestep.episode_return, np.inf),
        (lambda r: r.timestep.last_action, 99), (lambda r: r.noise.uniform, np.nan), (lambda r: r.noise.epsilon, -1.0),
        (lambda r: r.timestep.is_first.view(np.uint8), 7), (lambda r: r.crashed.view(np.uint8), 2),
    ],
)  # fmt: skip
def test_a_bad_number_in_a_request_is_refused_and_the_session_goes_on(door: Door, field: Any, value: float) -> None:
    session = door.handshake(task=0)["session"]
    layout, _ = inference_layouts(door.spec, 8)
    record = layout.empty(1)
    array = field(layout.view(record))
    array[(-1,) * array.ndim] = value
    before = door.counted("not_finite") + door.counted("out_of_range")
    assert "malformed" in door.infer(pack({"session": session}, record.tobytes()))["refused"]
    assert door.counted("not_finite") + door.counted("out_of_range") == before + 1
    wrong: list[dict[str, Any]] = [{"phases": {}}, {"events": [1]}, {"session": "0"}, {"session": -1}]
    for changes in wrong:
        message = pack({"session": session} | changes, layout.empty(1).tobytes())
        assert "malformed" in door.infer(message)["refused"]
    assert door.infer(door.valid_request(session)) == {}


def test_an_actor_that_connects_in_a_loop_is_refused_and_fills_no_log(
    tmp_path: Path, log_lines: Callable[[], list[str]]
) -> None:
    door = Door(tmp_path)
    answers = [door.handshake(task=5) for _ in range(MAX_HANDSHAKES + 100)]
    assert all("session" in answer for answer in answers[:MAX_HANDSHAKES])
    assert all("is there another actor with --task=5?" in answer["refused"] for answer in answers[MAX_HANDSHAKES:])
    assert door.counted("too_often") == 100
    assert len(log_lines()) == 1
    assert len(door.inference.sessions) == 1
    assert "session" in door.handshake(task=6), "the others can still connect"


def test_thousands_of_invented_actors_get_a_bounded_number_of_sessions_and_memory(tmp_path: Path) -> None:
    door = Door(tmp_path)
    before = resident_bytes()
    for task in range(2, 3 * MAX_ACTORS):
        answer = door.server._admit(door.request | {"task": task, "envs": 100})
        assert "session" in answer or "already" in answer["refused"] or "sessions" in answer["refused"]
    assert door.counted("actor") + door.counted("memory") > MAX_ACTORS
    assert resident_bytes() - before < 200e6
    assert len(door.metrics.actors._hosts) <= MAX_ACTORS
    assert "session" in door.handshake(task=1), "there is room for an actor that is expected"
    assert not door.failures


NUM_MUTATIONS = 100_000
THROUGH_THE_SOCKET = 12_000


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
    before, shares = resident_bytes(), {"put": 0.6, "infer": 0.3, "handshake": 0.1}
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
    assert resident_bytes() - before < 200e6
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
        began, memory = time.monotonic(), resident_bytes(learner.process.pid)
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
        assert resident_bytes(learner.process.pid) - memory < 200e6
        assert_few_lines(logdir / "events.log", seconds)
        assert actor.process.poll() is None
        learner.signal(2)
        assert learner.wait() == 0, learner.text()
        assert actor.wait() == 0, actor.text()


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
