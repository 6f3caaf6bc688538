"""A ValueError while a role works is a failure: a traceback, code 1, a restart. Before that it is a usage error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlma.learning.checkpoint import Checkpoints
from tests.support.lab import STAND_IN
from tests.support.runs import SMALL, Process, wait_for

# Runs experiment.py with a learner whose update raises at step 30.
BROKEN_LEARNER = """
import runpy, sys
from mlma.learning.learner import Learner
update = Learner.update
def broken(self, *values, **named):
    if self.step >= 30:
        raise ValueError("a bad thirtieth step")
    return update(self, *values, **named)
Learner.update = broken
sys.argv = ["experiment.py", *sys.argv[1:]]
runpy.run_path("experiment.py", run_name="__main__")
"""
BROKEN_LEVEL = """
import gymnasium

class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 25:
            print("what the environment prints")
            raise ValueError("a bad twenty-fifth step")
        return self.observation_space.sample(), 0.0, False, False, {}

gymnasium.register("Broken-v0", Broken)
"""


def test_a_value_error_while_training_is_a_failure_with_a_traceback_and_a_checkpoint(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    command = [sys.executable, "-c", BROKEN_LEARNER]
    with Process(tmp_path, "run", *SMALL, "--num_actors=1", f"--logdir={logdir}", command=command) as run:
        assert run.wait(200) == 1, run.text()
    for text in (run.text(), (logdir / "events.log").read_text()):
        assert "Traceback (most recent call last)" in text
        assert "ValueError: a bad thirtieth step" in text
    last = Checkpoints(logdir / "checkpoints", 3).last()
    assert last is not None
    assert last.name == "checkpoint-000000030.npz"


def test_a_value_error_of_an_environment_is_a_failure_of_its_actor_which_is_restarted(tmp_path: Path) -> None:
    (tmp_path / "broken_level.py").write_text(BROKEN_LEVEL)
    logdir = tmp_path / "run"
    flags = ["--level_name=broken_level:Broken-v0", "--num_actors=1", "--envs_per_actor=1", f"--logdir={logdir}"]
    with Process(tmp_path, "run", *SMALL, *flags, env={"PYTHONPATH": str(tmp_path)}) as run:
        run.expect("actor 0 ended with code 4; restarting it", 120)
        log = logdir / "actor-0.log"
        wait_for(lambda: log.read_text().count("a bad twenty-fifth step") >= 2, 60, log.read_text)
        assert "Traceback (most recent call last)" in log.read_text()
        assert "what the environment prints\n" in log.read_text()


@pytest.mark.slow
def test_a_learner_says_why_a_remote_actor_ended(tmp_path: Path) -> None:
    (tmp_path / "sockets").mkdir(mode=0o700)
    host = f"--learner_host=unix:{tmp_path}/sockets/learner"
    flags = [*SMALL, "--level_name=dmlab/demos/missing_map", "--level_cache=", host, "--task=0"]
    env = {"PYTHONPATH": str(STAND_IN)}
    with Process(tmp_path, "learner", *flags, "--job_name=learner", f"--logdir={tmp_path}/run", env=env) as learner:
        learner.expect("learner at ", 150)
        with Process(tmp_path, "actor", *flags, "--job_name=actor", f"--logdir={tmp_path}/actor", env=env) as actor:
            assert actor.wait(150) == 2, actor.text()
        assert actor.text().splitlines()[-1].startswith("dmlab/demos/missing_map: worker ended with code 1")
        (line,) = [line for line in learner.text().splitlines() if " ended: dmlab/demos/missing_map: worker" in line]
        assert "ERROR: Couldn't load maps/missing.bsp" in line


@pytest.mark.parametrize("flag", ["--learner_host=nowhere", "--token_file=/dev/null/token"])
def test_a_usage_error_that_only_the_role_finds_is_one_line_and_code_2(tmp_path: Path, flag: str) -> None:
    with Process(tmp_path, "run", *SMALL, "--task=0", f"--logdir={tmp_path}/run", flag) as run:
        assert run.wait(120) == 2, run.text()
    assert run.text().startswith(flag.partition("=")[0])
    assert run.text().count("\n") == 1
