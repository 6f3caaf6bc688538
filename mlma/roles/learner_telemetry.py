"""What a learner reports about its run: metrics, loggers, evaluations, profiles."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlma.core.config.config import Config, save
from mlma.distributed.allreduce import Allreduce
from mlma.envs.registry import level_names
from mlma.evaluation.background_evaluator import BackgroundEvaluator
from mlma.learning.trajectory_receiver import TrajectoryReceiver
from mlma.monitoring.console import ConsoleDisplay
from mlma.monitoring.loggers import CsvWriter, DeterministicCsvLogger, make_loggers
from mlma.monitoring.metrics import Metrics, Row
from mlma.monitoring.phase_timer import CpuUsage
from mlma.monitoring.profiler import LEARNER, RECEIVER, Profiler
from mlma.monitoring.run_log import Say, write_workers
from mlma.replay.base import TrajectoryBuffer


def make_metrics(config: Config, allreduce: Allreduce, found: list[Callable[[Row], None]]) -> Metrics:
    """With these writers, which only the first learner has."""
    metrics = Metrics(
        found,
        config.report_every_seconds,
        config.total_environment_frames,
        allreduce.gather,
        level_names(config.level_name),
        config.report_every_steps,
    )
    if found:
        metrics.record_workers = lambda workers: write_workers(Path(config.logdir) / "workers.json", workers)
    return metrics


def register_gauges(config: Config, metrics: Metrics, memory: TrajectoryBuffer, receiver: TrajectoryReceiver) -> None:
    """What is reported of this learner beside its own loop."""
    metrics.gauges |= memory.gauges()
    metrics.clocks |= {
        "receiver/wait": lambda: receiver.phases.seconds["wait"],
        "receiver/full": lambda: memory.waited,
        "receiver/stack": lambda: receiver.phases.seconds["stack"] - memory.waited,
    }
    busy = CpuUsage()  # if learner and actors share these cores
    metrics.gauges["host/busy"] = lambda: busy() if metrics.actors_only_on(os.uname().nodename) else math.nan


def periodic_tasks(
    config: Config, metrics: Metrics, receiver: TrajectoryReceiver, frames: int, save: Callable[[], object], say: Say
) -> list[Any]:
    """What the first learner does beside, each time it reports."""
    found: list[Any] = []
    if config.evaluate_every:
        evaluator = BackgroundEvaluator(config, frames, save, say)
        metrics.own["evaluation/mean"] = lambda: evaluator.mean
        found.append(evaluator)
    if config.profile:

        def collect(who: str, events: Any) -> None:
            if who == LEARNER:
                metrics.events = events
            elif who == RECEIVER:
                receiver.phases.events = events
            else:
                receiver.events = events

        found.append(Profiler(config, collect, say))
    return found


def make_run_loggers(config: Config, screen: ConsoleDisplay, frames: int, address: str) -> list[Callable[[Row], None]]:
    """What records a run; only rank 0 has them."""
    logdir = Path(config.logdir)
    save(replace(config, learner_host="auto") if address.startswith("unix:") else config, logdir / "config.json")
    made: list[Callable[[Row], None]] = [screen, CsvWriter(logdir / "metrics.csv", frames)]
    if config.deterministic:
        made.append(DeterministicCsvLogger(logdir / "curve.csv", frames))
    return made + make_loggers(config.writers, logdir, dataclasses.asdict(config), screen.say)
