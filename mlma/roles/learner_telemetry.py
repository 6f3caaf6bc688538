"""What a learner reports about its run: metrics, loggers, evaluations, profiles."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

from mlma.core.config import Config
from mlma.distributed.allreduce import Allreduce
from mlma.envs.registry import level_names
from mlma.evaluation.background_evaluator import BackgroundEvaluator
from mlma.learning.trajectory_receiver import TrajectoryReceiver
from mlma.monitoring import profiler
from mlma.monitoring.console import ConsoleDisplay
from mlma.monitoring.cpu_usage import CoreSeconds, CpuUsage
from mlma.monitoring.metrics import Metrics, ReportListener
from mlma.monitoring.phase_timer import PhaseTimer
from mlma.monitoring.run_log import setup_logging, write_workers
from mlma.replay.base import TrajectoryBuffer
from mlma.roles import run_loggers

log_start, log_end, make_run_loggers = run_loggers.log_start, run_loggers.log_end, run_loggers.make_run_loggers
serve_metrics, make_display = run_loggers.serve_metrics, run_loggers.make_display


def start_logging(config: Config, allreduce: Allreduce, display: ConsoleDisplay) -> None:
    """Sends the log to the console and to logdir/events.log; lines of several learners name theirs."""
    worker = "" if allreduce.size == 1 else f"learner {allreduce.rank}"
    setup_logging(worker, display.show, Path(config.run.logdir) / "events.log")


def make_metrics(config: Config, allreduce: Allreduce, listeners: list[ReportListener]) -> Metrics:
    """Metrics with these listeners, which only the first learner has."""
    workers_file = Path(config.run.logdir) / "workers.json"
    return Metrics(
        PhaseTimer(),
        listeners,
        config.reports.report_every_seconds,
        config.run.total_environment_frames,
        allreduce.gather,
        level_names(config.environment.level_name),
        config.reports.report_every_steps,
        (lambda workers: write_workers(workers_file, workers)) if listeners else None,
    )


def register_gauges(metrics: Metrics, buffer: TrajectoryBuffer, receiver: TrajectoryReceiver) -> None:
    """Reports the receiver, the buffer and the cores of this host."""
    metrics.add_gauges(buffer.gauges())
    metrics.add_clocks(
        {
            "receiver/wait": lambda: receiver.timer.seconds["wait"],
            "receiver/full": lambda: buffer.insert_wait_seconds,
            "receiver/stack": lambda: receiver.timer.seconds["stack"] - buffer.insert_wait_seconds,
        }
    )
    metrics.add_totals({"core_seconds": CoreSeconds()})
    cpu_usage, host = CpuUsage(), os.uname().nodename
    # Says something about the run only if learner and actors share the cores.
    metrics.add_gauges({"host/busy": lambda: cpu_usage() if metrics.actors.all_on(host) else math.nan})


def add_periodic_tasks(
    config: Config,
    metrics: Metrics,
    timer: PhaseTimer,
    receiver: TrajectoryReceiver,
    frames: int,
    save: Callable[[], object],
) -> None:
    """What the first learner does from time to time: evaluations and a profile."""
    if config.reports.evaluate_every:
        evaluator = BackgroundEvaluator(config, frames, save)
        metrics.add_local_gauges({"evaluation/mean": lambda: evaluator.mean})
        metrics.add_listener(evaluator)
    if config.reports.profile:
        recorders = {
            profiler.LEARNER: timer.record_events,
            profiler.RECEIVER: receiver.timer.record_events,
            profiler.ACTOR: receiver.record_actor_events,
        }
        metrics.add_listener(profiler.Profiler(Path(config.run.logdir), config.reports.profile, recorders))
