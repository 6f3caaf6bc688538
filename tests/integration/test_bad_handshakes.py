"""Actors that have the token and abuse the handshake or an inference session: refused, and memory stays bounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlma.learning.admission import MAX_HANDSHAKES
from mlma.monitoring.actor_statistics import MAX_ACTORS
from mlma.transport.inference_messages import inference_layouts
from mlma.transport.messages import pack
from tests.support.learner_ends import Door
from tests.support.memory import PeakMemory


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Door:
    return Door(tmp_path_factory.mktemp("door"))


@pytest.mark.parametrize("envs", [10**9, 10**400, 0, -1, 1.5, True, "8", None, [8], 17_000])
def test_an_absurd_number_of_environments_is_refused_before_anything_is_allocated(door: Door, envs: Any) -> None:
    memory = PeakMemory()
    answer = door.handshake(task=1, envs=envs)
    assert "envs" in answer["refused"]
    assert len(answer["refused"]) < 400
    assert memory.growth() < 50e6


@pytest.mark.parametrize("task", [-1, 10**6, 10**400, 1.0, True, "0", None, {}])
def test_an_absurd_task_is_refused(door: Door, task: Any) -> None:
    before = door.counted("actor")
    assert "task" in door.handshake(task=task)["refused"]
    assert door.counted("actor") == before + 1


def test_with_a_replay_an_actor_has_the_flags_that_its_priorities_depend_on(tmp_path: Path, door: Door) -> None:
    assert "session" in door.handshake(task=1, discounting=0.5)  # of no use to an actor of IMPALA
    with_replay = Door(tmp_path, "--algorithm=apex")
    assert "session" in with_replay.handshake(task=1)
    answer = with_replay.handshake(task=1, discounting=0.5, exploration_base=0.9)
    assert answer["refused"] == "discounting: actor has 0.5, learner 0.99; exploration_base: actor has 0.9, learner 0.4"


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


def test_why_an_actor_ended_is_said_until_it_is_back(door: Door, log_lines: Callable[[], list[str]]) -> None:
    assert door.handshake(task=2, host="h", failed="my_level: the door\nis locked") == {}
    assert any(line.startswith("actor 2 on h ended: my_level: the door") for line in log_lines())
    assert all("\n" not in line for line in log_lines())
    assert door.metrics.actors.failure(2).startswith("my_level: ")
    assert "session" in door.handshake(task=2)
    assert door.metrics.actors.failure(2) == ""
    assert door.handshake(task=2, failed=["x"]) == {"refused": "failed: must be text"}


def test_an_actor_whose_network_would_see_other_pixels_is_refused(door: Door) -> None:
    answer = door.handshake(task=1, pixel_scaling="unit")
    assert answer["refused"] == "pixel_scaling: actor has unit, learner centered"


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
    memory = PeakMemory()
    for task in range(2, 3 * MAX_ACTORS):
        answer = door.server._admit(door.request | {"task": task, "envs": 100})
        assert "session" in answer or "already" in answer["refused"] or "sessions" in answer["refused"]
    assert door.counted("actor") + door.counted("memory") > MAX_ACTORS
    assert memory.growth() < 200e6
    assert len(door.metrics.actors._hosts) <= MAX_ACTORS
    assert "session" in door.handshake(task=1), "there is room for an actor that is expected"
    assert not door.failures
