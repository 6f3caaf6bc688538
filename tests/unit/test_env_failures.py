"""Equal errors of environments are recognised in logs and counted; refused numbers are said where they come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlma.core.config import parse, to_argv
from mlma.core.config.json_object import canonical_json, json_object
from mlma.core.presets.resolve import resolve
from mlma.core.refusal import RefusedError
from mlma.core.types import ArraySpec, EnvSpec
from mlma.envs.failures import (
    WINDOW_SECONDS,
    YOUNG_SECONDS,
    EnvironmentFailedError,
    FailureCounter,
    LoggedFailure,
    SimulatorLostError,
    WrongResultError,
    find_failures,
)
from mlma.learning.trajectory_checks import TrajectoryChecks
from mlma.learning.trajectory_receiver import TrajectoryReceiver
from mlma.transport.messages import pack
from tests.support.learner_ends import HEADER, LAYOUT, SPEC, VERSION, valid_records
from tests.support.samples import make_metrics


def failed(text: str, seconds: float = 3.0) -> EnvironmentFailedError:
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        return EnvironmentFailedError("my_env:Room", "step", error, 100, seconds)


def logged(text: str, seconds: float = 3.0) -> LoggedFailure:
    (failure,) = find_failures(f"noise\nmlma.envs.failures.EnvironmentFailedError: {failed(text, seconds)}\n")
    return failure


def test_failures_are_found_in_a_log_with_their_traceback() -> None:
    failure = logged("out of fuel\nat 7")
    assert failure.line.startswith("my_env:Room: step raised RuntimeError at ")
    assert failure.line.endswith(": out of fuel at 7 (after 100 steps in 3.0 s)")
    assert "raise RuntimeError(text)" in failure.details
    assert find_failures("Traceback\nRuntimeError: of another kind") == []
    wrong = EnvironmentFailedError("x", "reset", WrongResultError("returned nothing"), 0, 0.0)
    (found,) = find_failures(f"EnvironmentFailedError: {wrong}\n")
    assert found.line == "x: reset returned nothing (after 0 steps in 0.0 s)"


def test_errors_are_equal_if_they_have_the_same_place_and_type_whatever_their_text() -> None:
    counter = FailureCounter(3)
    assert counter.add(logged("at 1")) is None
    assert counter.add(LoggedFailure("my_env:Room: reset returned nothing (after 0 steps in 0.0 s)", "")) is None
    assert counter.add(logged("at 2")) is None
    problem = counter.add(logged("at 3"))
    assert problem is not None
    assert str(problem).startswith("3 equal errors of environments (--max_env_errors): my_env:Room: step raised")
    assert "raise RuntimeError(text)" in problem.__notes__[0]


def test_rare_errors_never_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    counter = FailureCounter(2)
    for _ in range(5):
        assert counter.add(logged("rare")) is None
        now += WINDOW_SECONDS
    for _ in range(5):
        assert counter.add(logged("late", YOUNG_SECONDS)) is None
    never = FailureCounter(0)
    assert [never.add(logged("always")) for _ in range(9)] == [None] * 9


def test_the_time_until_a_hanging_simulator_is_given_up_does_not_make_it_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    counter, problems = FailureCounter(3, 1200.0), []
    lost = SimulatorLostError("lab", "no answer for 300 s (--env_timeout_seconds); 3 workers in a row failed", 0, 0.0)
    (hanging,) = find_failures(f"SimulatorLostError: {lost}\n")
    for _ in range(3):
        problems.append(counter.add(hanging))
        now += 1300.0
    assert [problem is not None for problem in problems] == [False, False, True]
    assert [counter.add(logged("another")) for _ in range(2)] == [None, None]
    now += 1300.0
    assert counter.add(logged("another")) is None, "this one is rare"


def test_a_refusal_names_the_environment_and_its_level() -> None:
    records = valid_records()
    LAYOUT.view(records).timesteps.observation[1, 2, 0] = np.nan
    check = TrajectoryChecks(LAYOUT, SPEC, lambda: VERSION, ["my_env:Room", "my_env:Hall"])
    with pytest.raises(RefusedError, match=r"^observation is not finite in environment 1 of my_env:Hall$") as caught:
        check(3, LAYOUT.view(records))
    assert caught.value.reason == "not_finite"


def test_an_actor_whose_messages_are_all_refused_is_not_said_to_be_absent(log_lines: Callable[[], list[str]]) -> None:
    metrics = make_metrics()
    receiver = TrajectoryReceiver(
        lambda: None, list[object]().append, LAYOUT, SPEC, metrics, lambda error: None, level_names=["my_env:Room"]
    )
    records = valid_records()
    LAYOUT.view(records).timesteps.reward[0, 1] = np.inf
    for _ in range(3):
        receiver.take(pack(HEADER, records.tobytes()))
    reason = "reward is not finite in environment 0 of my_env:Room"
    assert log_lines() == [f"refused a message of actor 3: {reason} (not_finite)"]
    silent = receiver.silent_actors(1, 10)
    assert silent == "0 of 1 actors send trajectories; actor 0 never came"
    metrics.actors.set_failure(0, "my_env:Room: out of fuel")
    assert "; actor 0 ended: my_env:Room: out of fuel" in receiver.silent_actors(1, 10)
    silent = receiver.silent_actors(4, 10)
    assert f"actor 3: all of its 3 messages were refused, the last one because {reason}" in silent


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1]", "must be a JSON object"),
        ("{size: 8}", "must be a JSON object"),
        ('{"a": 1, "a": 2}', "a is given twice"),
        ('{"a": NaN}', "NaN is no number"),
        ("[" * 8000, "must be a JSON object"),  # too deep for Python 3.11, but not for 3.13
        ("3", "must be a JSON object"),
    ],
)
def test_env_args_are_a_json_object(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        parse([f"--env_args={text}"])
    assert str(caught.value).startswith("--env_args=")
    assert "\n" not in str(caught.value)


def test_env_args_are_an_object_or_its_text_in_a_file_of_flags(tmp_path: Path) -> None:
    for name, value in (("object", {"size": 8}), ("text", '{"size": 8}')):
        (tmp_path / name).write_text(json.dumps({"env_args": value}))
        assert parse([f"--config={tmp_path / name}"]).environment.env_args == '{"size": 8}'
    (tmp_path / "bad").write_text(json.dumps({"level_name": {"size": 8}}))
    with pytest.raises(ValueError, match="--level_name: must be text"):
        parse([f"--config={tmp_path / 'bad'}"])


def test_env_args_survive_a_command_line_in_one_form() -> None:
    config = parse(['--env_args={"b": [1, "x y"], "a": {}}', "--level_name=CartPole-v1"])
    spec = EnvSpec(ArraySpec((4,), "float32"), num_actions=2, action_repeats=1)
    resolved = resolve(config, spec, cores=1)
    assert resolved.environment.env_args == '{"a": {}, "b": [1, "x y"]}'
    assert resolve(parse(to_argv(resolved)), spec, cores=1).environment == resolved.environment
    assert (canonical_json("{}"), json_object("")) == ("", {})
