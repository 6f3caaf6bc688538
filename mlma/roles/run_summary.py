"""What a run says about itself: its settings at the start, how long it takes, and what to do next at the end.

Not here: the lines of reports (mlma/monitoring/console.py).
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlma.core.config import Config
from mlma.core.types import EnvSpec
from mlma.learning.learner import Learner
from mlma.utils.code_layout import IS_INSTALLED, ROOT

logger = logging.getLogger(__name__)

FORECAST_SECONDS = 60.0  # of training after the first new frames, before the duration is said
SLOW_STEPS = 800  # in a batch, that take a residual network more than some seconds without a GPU
SHORTER = "--preset=dmlab_cpu"
LONG_HOURS = 2.0  # a run that takes longer is told how to ask for a shorter one


def log_start(config: Config, spec: EnvSpec, learner: Learner, num_learners: int, seconds: float) -> None:
    """Says what is trained, with which settings, and how long it takes, or that it is complete."""
    for line in start_lines(config, spec, learner.weights.count, num_learners):
        logger.info("%s", line)
    if hint := slow_step_hint(config, spec, bool(tf.config.list_physical_devices("GPU"))):
        logger.warning("%s", hint)
    total = config.run.total_environment_frames
    complete = complete_line(total, learner.frames)
    logger.info("%s", complete or duration_line(total, learner.frames, seconds))


def slow_step_hint(config: Config, spec: EnvSpec, has_gpu: bool) -> str:
    """What is said where a learner step of DeepMind Lab's preset takes half a minute, and how to have a shorter one."""
    learner, network = config.learner, config.run.agent_name
    steps = learner.batch_size * learner.unroll_length
    if has_gpu or spec.suite != "dmlab" or not network.startswith("ResNet") or steps < SLOW_STEPS:
        return ""
    return (
        f"no GPU: a learner step of {network} on {learner.batch_size} x {learner.unroll_length} steps takes long "
        f"(32 s and 8.4 GB at 32 x 100, on 2 cores); for this machine: {SHORTER}"
    )


def log_end(config: Config, frames: int) -> None:
    """Says how far the run came, and what to do next."""
    for line in end_lines(config, frames):
        logger.info("%s", line)


def start_lines(config: Config, spec: EnvSpec, num_weights: int, num_learners: int) -> list[str]:
    """The settings that matter, resolved."""
    learner, actor = config.learner, config.actor
    shape = "x".join(str(size) for size in spec.observation.shape)
    actions = f"{spec.num_actions} actions" if spec.num_actions else "actions of real numbers"
    learners = f"{num_learners} learners x " if num_learners > 1 else ""
    return [
        f"{config.environment.level_name}: observations {shape} {spec.observation.dtype}, {actions}, "
        f"{spec.action_repeats} frames a step; rewards: {learner.reward_clipping}, discount {learner.discounting:g}",
        f"{config.run.algorithm} with preset {config.run.preset}: {config.run.agent_name} "
        f"with {num_weights:,} weights; {learners}{actor.num_actors} actors x {actor.envs_per_actor} environments; "
        f"batches of {learner.batch_size} x {learner.unroll_length} steps; "
        f"learning rate {config.optimizer.learning_rate:g}; seed {config.run.seed}",
    ]


def duration_line(total: float, frames: float, seconds: float) -> str:
    """How long a run of `total` frames takes that stands at `frames` after `seconds`; says so if that is unknown."""
    if not frames or not seconds:
        return f"{total:,.0f} frames to train; how long that takes is said after the first minute"
    return f"{total:,.0f} frames to train, {frames:,.0f} of them are done; {_forecast(total, frames, frames / seconds)}"


def _forecast(total: float, frames: float, rate: float) -> str:
    left, whole = (total - frames) / rate / 3600, total / rate / 3600
    line = f"at {rate:,.0f} frames/s about {left:.1f} hours are left of {whole:.1f}"
    if left < LONG_HOURS:
        return line
    return f"{line}; for one hour from now: --total_environment_frames={round(frames + 3600 * rate, -3):.0f}"


class Forecast:
    """A report listener that says once how long the run takes, when its speed is known."""

    name = "the forecast"

    def __init__(self, total_frames: float) -> None:
        self._total = total_frames
        self._start_frames: float | None = None
        self._base: Any = None  # the first report with new frames; what came before it is start-up
        self._is_said = False

    def on_report(self, row: Any) -> None:
        """Says it with the first report that is late enough."""
        if self._start_frames is None:
            self._start_frames = row["frames"]
        if self._base is None:
            self._base = row if row["frames"] > self._start_frames else None
            return
        seconds, frames = row["seconds"] - self._base["seconds"], row["frames"] - self._base["frames"]
        if not self._is_said and seconds >= FORECAST_SECONDS and frames > 0 and row["frames"] < self._total:
            self._is_said = True
            logger.info("%s", _forecast(self._total, row["frames"], frames / seconds))

    def close(self, finished: bool) -> None:
        """Nothing to do: who asks how long a run takes that is over?"""


def complete_line(total: float, frames: float) -> str:
    """For a run that has nothing left to do at its start; empty for any other."""
    if frames < total:
        return ""
    return (
        f"already complete: {frames:,.0f} of {total:,.0f} frames; allowed: a larger --total_environment_frames to go "
        "on, or another --logdir for a new run"
    )


def end_lines(config: Config, frames: float) -> list[str]:
    """How far the run came, and the commands for what usually follows, as they can be typed here."""
    logdir, total = config.run.logdir, config.run.total_environment_frames
    done = f"complete: {frames:,.0f} of {total:,.0f} frames"
    stopped = f"stopped at {frames:,.0f} of {total:,.0f} frames; the same command goes on from there"
    evaluate, plot, report = _commands(logdir)
    return [
        done if frames >= total else stopped,
        f"evaluate it: {shlex.join(evaluate)}",
        f"draw its curve: {shlex.join(plot)}",
        f"write its report page: {shlex.join(report)}",
    ]


def _commands(logdir: str) -> tuple[list[str], list[str], list[str]]:
    """Those that evaluate a run, draw its curve and write its report page."""
    python, out = _short(sys.executable), f"--out={logdir}/returns.png"
    if IS_INSTALLED:
        mlma = ["mlma"] if shutil.which("mlma") else [python, "-m", "mlma"]
        return [*mlma, "evaluate", logdir], [*mlma, "plot", logdir, out], [*mlma, "report", logdir]
    here = Path.cwd() == ROOT
    module = [*([] if here else ["env", f"PYTHONPATH={ROOT}"]), python, "-m", "mlma.evaluation.plot", logdir]
    script = "experiment.py" if here else str(ROOT / "experiment.py")
    return [python, script, "--mode=test", f"--config={logdir}/config.json"], [*module, out], [*module, "--report"]


def _short(path: str) -> str:
    """The path as it is typed in the working folder. Links stay: a Python finds its packages by the link's place."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
