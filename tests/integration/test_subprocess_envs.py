"""Environments in worker processes: the same games as without them, and what a fault leaves behind: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.config import EnvironmentConfig
from mlma.core.record_layout import RecordLayout, trajectory_spec
from mlma.core.types import ActOutput, TimeStep
from mlma.envs.registry import env_spec, make_env
from tests.support.runs import ROOT, Process, descendants, gone, rows, wait_for


def play(level: str, steps: int, **flags: Any) -> list[TimeStep]:
    env = make_env(level, 5, 7, EnvironmentConfig(**flags))
    rng = np.random.default_rng(1)
    found = [env.reset(), *(env.step(rng.integers(env.spec.num_actions, size=5)) for _ in range(steps))]
    env.close()
    return found


@pytest.mark.parametrize("level", ["CartPole-v1", "tests.support.levels:Dark-v0"])
def test_games_in_processes_are_those_in_turn(level: str) -> None:
    alone, shared = play(level, 60), play(level, 60, env_processes=3)
    for one, two in zip(alone, shared, strict=True):
        for a, b in zip(one[:-1], two[:-1], strict=True):
            np.testing.assert_array_equal(a, b)
        for name in one.extras:
            np.testing.assert_array_equal(one.extras[name], two.extras[name])


def test_what_was_given_out_is_not_overwritten_by_the_next_step() -> None:
    env = make_env("CartPole-v1", 2, 7, EnvironmentConfig(env_processes=1))
    first = env.reset()
    before = first.observation.copy()
    second = env.step(np.ones(2, int))
    env.close()
    np.testing.assert_array_equal(first.observation, before)
    assert (second.observation != before).all()


def test_a_sticky_action_is_that_of_the_step_before() -> None:
    env = make_env("CartPole-v1", 200, 7, EnvironmentConfig(sticky_actions=0.25))
    env.reset()
    before = env.step(np.zeros(200, int)).observation[:, 1]  # how fast the cart is
    step = env.step(np.ones(200, int))
    assert 0.15 < (step.observation[:, 1] < before).mean() < 0.35, "pushed to the left again"
    assert (step.last_action == 1).all(), "what was wished, as in Atari"


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
@pytest.mark.parametrize(("level", "says"), [("Crashing", "ended with code 17"), ("Hanging", "no answer for 2 s")])
def test_a_worker_that_crashes_or_hangs_is_replaced(level: str, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    env: Any = make_env(f"tests.support.levels:{level}-v0", 4, 7, EnvironmentConfig(env_processes=4, env_timeout_seconds=2))
    env.reset()
    before, lost = env.pids(), np.zeros(4, bool)
    for _ in range(60):
        step = env.step(np.zeros(4, int))
        assert (step.is_first[env.crashed]).all(), "its game is a new one"
        lost |= env.crashed
    after = env.pids()
    env.close()
    assert lost.sum() == 1
    assert [one != two for one, two in zip(before, after, strict=True)] == lost.tolist()
    assert gone(before + after)
    assert f"environment {lost.argmax()}: " in (text := capfd.readouterr().err)
    assert says in text


def test_workers_that_come_to_nothing_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_AT", "1")
    env: Any = make_env("tests.support.levels:Crashing-v0", 1, 7, EnvironmentConfig(env_processes=1))
    env.reset()
    env.step(np.zeros(1, int))  # replaced
    assert env.crashed.all()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="3 workers in a row came to nothing"):
        env.step(np.zeros(1, int))
    env.close()


def test_a_kill_of_their_parent_leaves_no_worker_and_no_shared_memory(tmp_path: Path) -> None:
    program = (
        "import time, numpy as np; from mlma import envs; from mlma.core.config import Config\n"
        "env = envs.make('CartPole-v1', 6, 1, Config(env_processes=3)); env.reset()\n"
        "print(*env.pids(), flush=True)\n"
        "while True: env.step(np.zeros(6, int))"
    )
    memory = sorted(os.listdir("/dev/shm"))
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        assert sorted(os.listdir("/dev/shm")) == memory, "its memory has no name"
        parent.kill()
    wait_for(lambda: gone(pids), 5, lambda: f"orphans: {pids}")


def test_the_trajectory_of_a_lost_environment_is_dropped_and_counted_and_the_chain_broken() -> None:
    spec = env_spec(EnvironmentConfig(level_name="CartPole-v1"))
    layout = RecordLayout(trajectory_spec(spec, (np.zeros((3, 1), np.float32),), 2))
    trajectories = TrajectoryWriter(layout, 3, 2, task=0, seed=50)
    zeros = np.zeros(3, np.float32)
    step = TimeStep(np.zeros((3, 4)), zeros, zeros, zeros > 0, zeros, zeros, zeros)
    acted, state = ActOutput(zeros, np.zeros((3, 2)), zeros), (np.zeros((3, 1)),)
    sent = []
    for t in range(9):
        if t == 4:
            trajectories.drop(np.array([False, True, False]))
            trajectories.drop(np.array([False, True, False]))  # crashed again: the same trajectory
        if trajectories.add(step, acted, state, 0):
            sent.append([layout.view(layout.from_bytes(bytes(data))) for data in trajectories.messages()])
    assert [each.env_stream_id.tolist() for part in sent for each in part] == [[50, 51, 52], [50, 52], [50, 51, 52]]
    assert [each.number.tolist() for part in sent for each in part] == [[0, 0, 0], [1, 1], [2, 2, 2]]
    assert (trajectories.dropped(), trajectories.dropped()) == (1, 0)


def test_a_crash_in_a_run_is_counted_and_the_run_goes_on_and_a_killed_actor_leaves_nothing(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    flags = ["--level_name=tests.support.levels:Crashing-v0", "--env_processes=2", "--envs_per_actor=4", "--num_actors=1",
             "--batch_size=4", "--unroll_length=10", "--report_every_seconds=0.5", "--width=36", "--height=36"]  # fmt: skip
    crash = {"CRASH_AT": "300", "CRASH_ONCE": str(tmp_path / "crashed")}
    with Process(tmp_path, "run", *flags, f"--logdir={logdir}", env=crash) as run:
        wait_for(lambda: rows(logdir) and rows(logdir)[-1].get("faults/trajectories_dropped", 0) >= 1, 200, run.text, run)
        (actor,) = run.children()
        assert "its worker ended with code 17; it begins anew" in (logdir / "actor-0.log").read_text()
        workers = descendants(actor)
        assert len(workers) == 2
        os.kill(actor, signal.SIGKILL)
        wait_for(lambda: gone([actor, *workers]), 5, lambda: f"orphans of {actor}: {workers}")
        run.expect("ended with code -9; starting it again")
        run.signal(signal.SIGINT)
        assert run.wait() == 0
