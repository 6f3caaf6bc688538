"""Environments in worker processes: same episodes as in one process, and faults leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.config import EnvironmentConfig
from mlma.core.record_layout import RecordLayout, trajectory_spec
from mlma.core.types import ActOutput, TimeStep
from mlma.envs.registry import env_spec, make_env
from mlma.envs.trial import try_levels
from tests.support.runs import ROOT, Process, descendants, gone, rows, wait_for


def run(level: str, steps: int, **flags: Any) -> list[TimeStep]:
    """Time steps of five environments with random actions."""
    env = make_env(level, 5, 7, EnvironmentConfig(**flags))
    rng = np.random.default_rng(1)
    timesteps = [env.reset(), *(env.step(rng.integers(env.spec.num_actions, size=5)) for _ in range(steps))]
    env.close()
    return timesteps


@pytest.mark.parametrize("level", ["CartPole-v1", "tests.support.levels:Dark-v0"])
def test_episodes_in_processes_equal_those_in_one_process(level: str) -> None:
    sequential, parallel = run(level, 60, vectorized_env="off"), run(level, 60, env_processes=3)
    for expected, actual in zip(sequential, parallel, strict=True):
        for expected_field, field in zip(expected[:-1], actual[:-1], strict=True):
            np.testing.assert_array_equal(field, expected_field)
        for name in expected.extras:
            np.testing.assert_array_equal(actual.extras[name], expected.extras[name])


def test_a_time_step_is_not_overwritten_by_the_next() -> None:
    env = make_env("CartPole-v1", 2, 7, EnvironmentConfig(env_processes=1))
    first = env.reset()
    before = first.observation.copy()
    second = env.step(np.ones(2, int))
    env.close()
    np.testing.assert_array_equal(first.observation, before)
    assert (second.observation != before).all()


def test_a_sticky_action_repeats_the_previous_one() -> None:
    env = make_env("CartPole-v1", 200, 7, EnvironmentConfig(sticky_actions=0.25))
    env.reset()
    before = env.step(np.zeros(200, int)).observation[:, 1]  # velocity of the cart
    step = env.step(np.ones(200, int))
    assert 0.15 < (step.observation[:, 1] < before).mean() < 0.35, "some are pushed to the left again"
    assert (step.last_action == 1).all(), "the selected action, as in Atari"


def test_a_repeated_action_counts_its_frames_and_adds_its_rewards() -> None:
    env = make_env("CartPole-v1", 1, 7, EnvironmentConfig(num_action_repeats=3))
    assert env.spec.action_repeats == 3
    env.reset()
    step = env.step(np.zeros(1, int))
    assert step.reward == 3
    while np.isnan(step.episode_return[0]):
        step = env.step(np.zeros(1, int))
    assert step.episode_frames % 3 == 0
    assert step.episode_return <= step.episode_frames


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CRASH_AT", "25")
    monkeypatch.setenv("CRASH_ONCE", str(tmp_path / "crashed"))


@pytest.mark.usefixtures("crash")
@pytest.mark.parametrize(
    ("level", "seconds", "reason"), [("Crashing", 60, "ended with code 17"), ("Hanging", 4, "no answer for 4 s")]
)
def test_a_worker_that_crashes_or_hangs_is_replaced(
    level: str, seconds: int, reason: str, log_lines: Callable[[], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    env: Any = make_env(
        f"tests.support.levels:{level}-v0", 4, 7, EnvironmentConfig(env_processes=4, env_timeout_seconds=seconds)
    )
    env.reset()
    slow_starts = len(log_lines())  # on a busy machine
    before, crashed = env.pids(), np.zeros(4, bool)
    for _ in range(60):
        step = env.step(np.zeros(4, int))
        assert (step.is_first[env.crashed]).all(), "its episode is a new one"
        crashed |= env.crashed
    after = env.pids()
    env.close()
    assert crashed.sum() == 1
    assert [old != new for old, new in zip(before, after, strict=True)] == crashed.tolist()
    assert gone(before + after)
    (line,) = log_lines()[slow_starts:]
    assert line.startswith(f"environment {crashed.argmax()}: ")
    assert reason in line
    assert line.endswith("; its last line: it breaks at step 25"), "what it printed before is not lost"
    assert capfd.readouterr().err.count("it breaks at step 25\n") == 1, "it is in the log as well"


def test_what_an_environment_printed_before_it_crashed_in_the_trial_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_AT", "1")
    with pytest.raises(ValueError, match=r"code 17 while it was tried .*; its last line: it breaks at step 1$"):
        try_levels(EnvironmentConfig(level_name="tests.support.levels:Crashing-v0"))


def test_workers_that_fail_repeatedly_end_the_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_AT", "1")
    env: Any = make_env("tests.support.levels:Crashing-v0", 1, 7, EnvironmentConfig(env_processes=1))
    env.reset()
    env.step(np.zeros(1, int))  # replaced
    assert env.crashed.all()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="3 workers in a row failed"):
        env.step(np.zeros(1, int))
    env.close()


def test_killing_the_parent_leaves_no_worker_and_no_shared_memory(tmp_path: Path) -> None:
    program = (
        "import numpy as np; from mlma.core.config import EnvironmentConfig; from mlma.envs.registry import make_env\n"
        "env = make_env('CartPole-v1', 6, 1, EnvironmentConfig(env_processes=3)); env.reset()\n"
        "print(*env.pids(), flush=True)\n"
        "while True: env.step(np.zeros(6, int))"
    )
    memory = sorted(os.listdir("/dev/shm"))
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        assert sorted(os.listdir("/dev/shm")) == memory, "the shared memory has no name"
        parent.kill()
    wait_for(lambda: gone(pids), 5, lambda: f"orphans: {pids}")


def test_the_trajectory_of_a_crashed_environment_is_dropped_and_counted_and_its_stream_interrupted() -> None:
    spec = env_spec(EnvironmentConfig(level_name="CartPole-v1"))
    layout = RecordLayout(trajectory_spec(spec, (np.zeros((3, 1), np.float32),), 2))
    writer = TrajectoryWriter(layout, 3, 2, task=0, seed=50)
    zeros = np.zeros(3, np.float32)
    step = TimeStep(np.zeros((3, 4)), zeros, zeros, zeros > 0, zeros, zeros, zeros)
    acted, state = ActOutput(zeros, np.zeros((3, 2)), zeros), (np.zeros((3, 1)),)
    sent = []
    for t in range(9):
        if t == 4:
            writer.drop(np.array([False, True, False]))
            writer.drop(np.array([False, True, False]))  # crashed again: the same trajectory
        if writer.add(step, acted, state, 0):
            sent.append([layout.view(layout.from_bytes(bytes(data))) for data in writer.messages()])
    assert [t.env_stream_id.tolist() for message in sent for t in message] == [[50, 51, 52], [50, 52], [50, 51, 52]]
    assert [t.sequence_number.tolist() for message in sent for t in message] == [[0, 0, 0], [1, 1], [2, 2, 2]]
    assert (writer.dropped(), writer.dropped()) == (1, 0)


def test_a_run_counts_a_crash_and_continues_and_a_killed_actor_leaves_nothing(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    flags = ["--level_name=tests.support.levels:Crashing-v0", "--env_processes=2", "--envs_per_actor=4",
             "--num_actors=1", "--batch_size=4", "--unroll_length=10", "--report_every_seconds=0.5", "--width=36",
             "--height=36"]  # fmt: skip
    crash = {"CRASH_AT": "300", "CRASH_ONCE": str(tmp_path / "crashed")}
    with Process(tmp_path, "run", *flags, f"--logdir={logdir}", env=crash) as run:
        wait_for(
            lambda: rows(logdir) and rows(logdir)[-1].get("faults/trajectories_dropped", 0) >= 1, 200, run.text, run
        )
        (actor,) = run.children()
        assert "worker ended with code 17; starting a new worker" in (log := (logdir / "actor-0.log").read_text())
        assert "\nit breaks at step 300\n" in log, "what the environment prints"
        workers = descendants(actor)
        assert len(workers) == 2
        os.kill(actor, signal.SIGKILL)
        wait_for(lambda: gone([actor, *workers]), 5, lambda: f"orphans of {actor}: {workers}")
        run.expect("ended with code -9; restarting it in")
        run.signal(signal.SIGINT)
        assert run.wait() == 0
