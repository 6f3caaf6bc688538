"""The health check: reads the heartbeats of the workers on this host and reports which of them make progress.

    python -m mlma.monitoring.health_check --heartbeat_folder=/run/mlma

Imports nothing heavy. Not here: writing heartbeats (mlma/monitoring/heartbeat.py), restarting workers
(mlma/cluster/on_host/supervisor.py, docker/, sandbox/kubernetes/).
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

from mlma.core.config import Config, format_flags, option, parse_with, run_parser
from mlma.core.config.flags import flag_table
from mlma.core.config.limits import A_YEAR
from mlma.utils.child_process import process_start_time

LIVE_STATES = ("progresses", "starved", "starting")


class WorkerHealth(NamedTuple):
    """The verdict on one worker."""

    worker: str
    state: str  # one of LIVE_STATES, or hung, dead, not started
    reason: str


def check_workers(folder: Path, worker: str, seconds: float) -> list[WorkerHealth]:
    """The health of the workers with a heartbeat in `folder`, or only of `worker` if that is not empty."""
    healths = [assess(path, seconds) for path in sorted(folder.glob("*.json")) if worker in ("", path.stem)]
    return healths or [
        WorkerHealth(worker or "worker", "not started", f"nothing in {folder}: not started yet, or training is over")
    ]


def assess(path: Path, seconds: float) -> WorkerHealth:
    """The health according to this heartbeat file; `seconds` is how long a worker may be silent or without progress."""
    try:
        record = json.loads(path.read_text())
        silent = time.monotonic() - record["beat"]
        frames, progressed, waits_for = record["frames"], record["progressed"], record["waits_for"]
        process = f"process {record['pid']}"
        if process_start_time(record["pid"]) != record["birth"]:
            return WorkerHealth(path.stem, "dead", f"{process} is gone")
        if silent > seconds + record["may_be_silent"]:
            activity = f", when it began to wait for {waits_for}" if waits_for else ""
            return WorkerHealth(path.stem, "hung", f"the last heartbeat of {process} was {silent:.0f} s ago{activity}")
        waiting = f"; waits for {waits_for}" if waits_for else ""
        if progressed is None:
            age = time.monotonic() - record["began"]
            return WorkerHealth(path.stem, "starting", f"for {age:.0f} s, no progress yet{waiting}")
        ago = time.monotonic() - progressed
        state, waiting = ("progresses", "") if ago <= seconds else ("starved", waiting)
        return WorkerHealth(path.stem, state, f"{frames:,} frames, the last {ago:.1f} s ago{waiting}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        return WorkerHealth(path.stem, "not started", f"{path} is incomplete: {error!r}")


@dataclasses.dataclass(frozen=True)
class HealthFlags:
    """Health."""

    worker: str = option(
        "", "one worker, such as learner-0 or actor-3; default: all with a heartbeat in --heartbeat_folder"
    )
    seconds: float = option(
        60.0,
        "seconds within which a worker must have made progress; without a heartbeat for that long, it counts as hung",
        minimum=0,
        maximum=A_YEAR,
    )
    live: bool = option(
        False,
        "check liveness only: fail only for a worker that is hung, dead or not started; a restart does not help "
        "one that waits for other workers",
    )


USAGE = (
    "usage: python -m mlma.monitoring.health_check --heartbeat_folder=FOLDER [--flag=value ...]",
    "",
    "Exit code 0 if every worker has made progress recently, else 1. Prints one line per worker.",
)


def parse_flags(argv: list[str]) -> tuple[Config, HealthFlags]:
    """ValueError in one line for a wrong flag."""
    config, values = parse_with(argv, HealthFlags)
    health_flags = HealthFlags(**values)
    if not config.distributed.heartbeat_folder:
        raise ValueError("--heartbeat_folder: must be given, the same folder as for the workers")
    if health_flags.seconds <= 0:
        raise ValueError(f"--seconds={health_flags.seconds}: must be more than 0")
    return config, health_flags


def main() -> int:
    """Checks once; the exit code."""
    config, health_flags = run_parser(
        sys.argv[1:], parse_flags, lambda _: format_flags(flag_table(HealthFlags, "Health"), USAGE)
    )
    healths = check_workers(Path(config.distributed.heartbeat_folder), health_flags.worker, health_flags.seconds)
    for health in healths:
        print(f"{health.worker}: {health.state}: {health.reason}")
    good_states = LIVE_STATES if health_flags.live else LIVE_STATES[:1]
    return 0 if all(health.state in good_states for health in healths) else 1


if __name__ == "__main__":
    sys.exit(main())
