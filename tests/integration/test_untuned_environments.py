"""Environments that nobody tuned for: each trains, or gives one clear line before training."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents import make_agent
from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.config import EnvironmentConfig, parse
from mlma.core.flat_weights import build_variables
from mlma.core.presets.resolve import resolve
from mlma.core.record_layout import trajectory_layout
from mlma.core.types import ActionNoise
from mlma.envs.failures import EnvironmentFailedError
from mlma.envs.registry import env_spec, make_env
from mlma.envs.trial import try_levels
from mlma.learning.trajectory_checks import TrajectoryChecks
from mlma.replay.trajectory_queue import TrajectoryQueue
from mlma.roles.preparation import prepare
from tests.support.env_steps import run
from tests.support.runs import ROOT, Process, rows

FILE = "./tests/support/untuned.py"
NUM_ENVS, UNROLL, STEPS = 2, 5, 3


def train(level: str, env_args: str) -> tuple[Any, list[float]]:
    """The spec, and the loss of each of some learner steps, from environments to the checks of the learner."""
    config = parse([f"--level_name={level}", f"--env_args={env_args}", f"--unroll_length={UNROLL}", "--batch_size=2"])
    spec = env_spec(config.environment)
    config = resolve(config, spec, cores=2)
    agent = make_agent(config, spec)
    build_variables(agent, spec)
    layout = trajectory_layout(spec, agent, UNROLL)
    check, queue = TrajectoryChecks(layout, spec, lambda: math.inf), TrajectoryQueue(layout, NUM_ENVS, NUM_ENVS)
    writer = TrajectoryWriter(layout, NUM_ENVS, UNROLL, 0, np.arange(NUM_ENVS))
    env = make_env(level, NUM_ENVS, 1, config.environment)
    timestep, state = env.reset(), agent.initial_state(NUM_ENVS)
    losses: list[float] = []
    noise = ActionNoise(np.full(NUM_ENVS, 0.5, np.float32), np.zeros(NUM_ENVS, np.float32))
    while len(losses) < STEPS:
        inputs = tf.nest.map_structure(lambda x: None if x is None else tf.constant(x), timestep.policy_inputs())
        output, next_state = agent.act(inputs, state, noise)
        if writer.add(timestep, output, state, 0):
            records = layout.from_bytes(b"".join(writer.messages()))
            check(0, layout.view(records))
            queue.insert(records)
            sample = queue.sample(1.0)
            assert sample is not None
            with tf.GradientTape() as tape:
                loss = agent.loss(sample).total
            variables = agent.network.trainable_variables
            for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
                variable.assign_sub(1e-4 * gradient)
            losses.append(float(loss))
        state, timestep = next_state, env.step(output.action.numpy())
    env.close()
    return spec, losses


@pytest.mark.parametrize(
    ("name", "env_args", "observation", "num_actions"),
    [
        ("Untuned-v0", "", (4,), 3),
        ("Image", "", (48, 48, 3), 3),
        ("ChannelsFirst", "", (48, 48, 3), 3),
        ("FloatImage", "", (48, 48, 3), 3),
        ("Dictionary", "", (40, 40, 3), 6),
        ("Pair", "", (8,), 8),
        ("Choices", "", (7,), 6),
        ("Buttons", "", (6,), 16),
        ("Sized", '{"size": 7}', (7,), 3),
        ("wrapped", '{"size": 5}', (5,), 3),
    ],
)
def test_it_trains(name: str, env_args: str, observation: tuple[int, ...], num_actions: int) -> None:
    spec, losses = train(f"{FILE}:{name}", env_args)
    assert (spec.observation.shape, spec.num_actions) == (observation, num_actions)
    assert np.isfinite(losses).all()
    assert len(set(losses)) == STEPS


@pytest.mark.parametrize(
    ("level", "env_args", "line"),
    [
        (f"{FILE}:Sized", "", "missing 1 required positional argument: 'size'; it takes size, names"),
        (f"{FILE}:Sized", '{"sise": 3}', "Sized has no argument sise; it takes size, names; did you mean size?"),
        (f"{FILE}:Untuned-v0", '{"fall": 1}', "has no argument fall; it takes fail, after; did you mean fail?"),
        ("catch", '{"size": 3}', '--env_args={"size": 3}: catch takes no arguments'),
        (f"{FILE}:Untuned", '{"fail": "open"}', r"cannot be opened: OSError at .*/untuned\.py:\d+: no licence"),
        (f"{FILE}:Unbounded", "", "48x48x3 float32 from -inf to inf: images or numbers"),
        (f"{FILE}:Stacked", "", "has stacked images, 4x48x48x3 uint8 .*--num_stacked_frames"),
        (f"{FILE}:NoEnv", "", "makes a NoEnv, which is no gymnasium.Env"),
        (f"{FILE}:Imaeg", "", "has no class or function of that name; it has Untuned-v0, Untuned, Image"),
        (FILE, "", r"needs the name of an environment in that file, \./tests/support/untuned.py:NAME; it has Untuned"),
        ("./tests/support/nothing.py:A", "", "nothing.py: no such file in "),
        ("tests.support.no_such:A", "", "cannot import tests.support.no_such"),
    ],
)
def test_a_mistake_is_answered_in_one_line(level: str, env_args: str, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        env_spec(EnvironmentConfig(level_name=level, env_args=env_args))
    assert "\n" not in str(caught.value)
    assert level.partition(":")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ('{"fail": "crash"}', "Untuned: its process ended with signal SIGSEGV while it was tried"),
        ('{"fail": "nan"}', "Untuned: step returned an observation that is not finite$"),
        ('{"fail": "reset"}', r"Untuned: reset raised RuntimeError at .*/untuned\.py:\d+: the door is locked"),
        ('{"fail": "step"}', r"Untuned: step raised RuntimeError at .*/untuned\.py:\d+: out of fuel at 1"),
    ],
)
def test_what_fails_at_once_is_found_in_a_trial(args: str, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        try_levels(EnvironmentConfig(level_name=f"{FILE}:Untuned", env_args=args))
    assert "\n" not in str(caught.value)


def test_a_remote_actor_tries_what_runs_in_its_own_process() -> None:
    words = ["--job_name=actor", "--task=0", "--learner_host=localhost:1", f"--level_name={FILE}:Untuned"]
    with pytest.raises(ValueError, match="Untuned: its process ended with signal SIGSEGV while it was tried"):
        prepare(parse([*words, '--env_args={"fail": "crash"}']))
    prepare(parse([*words, '--env_args={"fail": "crash"}', "--env_processes=1"]))


def test_gymnasiums_own_levels_need_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    try_levels(EnvironmentConfig(level_name="CartPole-v1"))
    try_levels(EnvironmentConfig(level_name="catch"))


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ('{"fail": "shape"}', r"reset returned an observation of shape \(1,\); its space has \(4,\) \("),
        ('{"fail": "no reward"}', "step returned the reward None, which is no number"),
        ('{"fail": "step", "after": 3}', r"step raised RuntimeError at .*: out of fuel at 4 \(after 4 steps in"),
    ],
)
def test_a_failure_names_the_environment_and_has_its_traceback(args: str, line: str) -> None:
    env = make_env(f"{FILE}:Untuned", 1, 1, EnvironmentConfig(env_args=args))
    with pytest.raises(EnvironmentFailedError, match=line) as caught:
        run(env, np.zeros((5, 1), np.int32))
    assert str(caught.value).startswith(f"{FILE}:Untuned: ")
    assert ("in step\n" in str(caught.value)) == ("raised" in str(caught.value))
    assert "mlma/envs" not in str(caught.value)


def test_a_run_ends_after_equal_errors_with_the_environments_traceback(tmp_path: Path) -> None:
    flags = [f"--level_name={FILE}:Untuned", '--env_args={"fail": "step", "after": 100}', f"--logdir={tmp_path}/run"]
    with Process(
        tmp_path, "run", *flags, "--num_actors=2", "--max_env_errors=2", "--report_every_seconds=1"
    ) as process:
        assert process.wait(240) == 1, process.text()
        text = process.text()
    assert "2 equal errors of environments (--max_env_errors): ./tests/support/untuned.py:Untuned: step raised" in text
    assert 'raise RuntimeError(f"out of fuel at {self._total}")' in text
    assert rows(tmp_path / "run")[-1]["frames"] > 0


def test_a_run_with_a_broken_environment_does_not_start(tmp_path: Path) -> None:
    flags = [f"--level_name={FILE}:Untuned", "--env_args", '{"fail": "reset"}', f"--logdir={tmp_path}/run"]
    command = [sys.executable, "experiment.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = [line for line in io.StringIO(done.stderr) if not line.startswith("opening each level once")]
    assert (done.returncode, len(lines)) == (2, 1)
    assert "the door is locked" in lines[0]
    assert not (tmp_path / "run").exists()
