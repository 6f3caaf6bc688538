"""Actors that have the token and put nonsense: refused, counted by reason, and the next message is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mlma.core.record_layout import RecordLayout, trajectory_spec
from mlma.core.types import ArraySpec, EnvSpec
from mlma.learning.trajectory_receiver import TrajectoryReceiver
from mlma.monitoring.phase_timer import MAX_EVENTS
from mlma.transport.messages import MAX_HEADER_BYTES, pack, split_message, unpack
from mlma.transport.server import MAX_KEPT_VERSIONS, Server
from tests.support.learner_ends import HEADER, LAYOUT, PHASES, SPEC, VERSION, LearnerEnd, valid_records
from tests.support.memory import PeakMemory
from tests.support.mutations import frame
from tests.support.samples import make_metrics
from tests.support.servers import SERVERS


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


def test_fetching_old_versions_again_and_again_keeps_a_bounded_number_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlma.transport.server.MAX_MESSAGE_BYTES", 4)  # weights of two parts
    server = Server(f"unix:{tmp_path}/socket", "secret", lambda request: {})
    SERVERS.append(server)
    fetched = range(3 * MAX_KEPT_VERSIONS)
    for version in fetched:
        server.publish(version, tf.zeros([2]))
        assert list(server._weights_part(-1, 0)[:2]) == [version, 2]
    assert MAX_KEPT_VERSIONS <= len(server._weights) <= MAX_KEPT_VERSIONS + 1
    assert server._weights_part(fetched[-1], 1)[0] == fetched[-1]
    for part in (-1, 2**62, -(2**63)):
        assert server._weights_part(fetched[-1], part)[2] == b""


def test_weights_of_one_part_are_not_kept_for_the_rest_of_a_fetch(tmp_path: Path) -> None:
    server = Server(f"unix:{tmp_path}/socket", "secret", lambda request: {})
    SERVERS.append(server)
    for version in range(10):
        server.publish(version, tf.zeros([2]))
        assert list(server._weights_part(-1, 0)[:2]) == [version, 1]
        assert list(server._weights) == [version]


def test_unfinished_messages_of_many_actors_take_little_memory() -> None:
    layout = RecordLayout(trajectory_spec(EnvSpec(ArraySpec((300, 350, 1), "uint8"), 4, 1), None, unroll_length=99))
    metrics = make_metrics()
    receiver = TrajectoryReceiver(lambda: None, lambda records: None, layout, SPEC, metrics, lambda error: None)
    first = split_message(HEADER, layout.empty(1).tobytes())[0]
    _, payload = unpack(first)
    memory = PeakMemory()
    for actor in range(200):  # 700 MB in all
        receiver.take(pack(HEADER | {"task": actor, "parts": 4}, payload))
        receiver.take(pack(HEADER | {"task": actor, "parts": 4, "part": 3}, payload[:100]) if actor % 2 else first)
    assert receiver.parts.held_bytes < 120e6
    assert memory.growth() < 200e6
