"""The loggers of a run, and what it says about itself at its start and end.

Not here: the loggers themselves (mlma/monitoring/loggers/), the words (mlma/roles/run_summary.py).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mlma.core.config import Config
from mlma.distributed.world import World
from mlma.monitoring import loggers
from mlma.monitoring.console import ConsoleDisplay
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.metrics import Metrics, ReportListener
from mlma.monitoring.metrics_endpoint import MetricsEndpoint
from mlma.monitoring.run_log import SessionRecord
from mlma.roles import run_summary
from mlma.roles.config_history import note_changes
from mlma.utils.child_process import LAUNCHER_SHOWS_ENV

log_start, log_end = run_summary.log_start, run_summary.log_end


def make_display(config: Config, num_learners: int) -> ConsoleDisplay:
    """The console of a learner. Several write to one pipe, in lines; see mlma/roles/learners_console.py."""
    title = f"{config.run.algorithm} {config.environment.level_name} {config.run.agent_name}"
    shown_by_launcher = bool(os.environ.get(LAUNCHER_SHOWS_ENV))
    return ConsoleDisplay(title, config.run.total_environment_frames, num_learners > 1, not shown_by_launcher)


def make_run_loggers(config: Config, display: ConsoleDisplay, frames: int) -> list[ReportListener]:
    """The loggers of a run that stands at `frames`; also writes logdir/config.json and logdir/sessions.json."""
    logdir = Path(config.run.logdir)
    changed = note_changes(config, logdir, frames)
    saved = loggers.ConfigWriter(config, logdir / "config.json")
    session = SessionRecord(logdir / "sessions.json", frames, changed)
    for record in (saved, session):
        with contextlib.suppress(OSError):  # no room: the next report tries again, and logs it
            record.write()
    made: list[ReportListener] = [display, saved, session, loggers.CsvWriter(logdir / "metrics.csv", frames)]
    made.append(run_summary.Forecast(config.run.total_environment_frames))
    if config.run.deterministic:
        made.append(loggers.DeterministicCsvLogger(logdir / "curve.csv", frames))
    return made + loggers.make_loggers(config.reports.writers, logdir, config.flags())


def serve_metrics(config: Config, heartbeat: Heartbeat, metrics: Metrics, is_first: bool) -> None:
    """Serves /metrics of this learner if that is asked for; the first learner's has the reports, too."""
    if not (port := config.reports.metrics_port):
        return
    endpoint = MetricsEndpoint(port + World.from_environment().local_rank, heartbeat)
    if is_first:  # reports are collective, and learners with a listener ask for them
        metrics.add_listener(endpoint)
