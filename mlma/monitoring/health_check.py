"""Does a worker make progress? Each writes a small file as it goes (`--heartbeat_folder`); this command reads it, on its host.

    python -m mlma.monitoring.health_check --heartbeat_folder=/run/mlma

The file is written by the loop itself, not by a thread beside it: a worker that hangs for whatever reason falls silent. One
that waits for another worker says so, and is not taken for one that hangs. Times are those of the kernel's monotonic clock,
which all processes of a host share, those in containers too. Imports nothing heavy. Not here: who starts workers again
(mlma/cluster/on_host/supervisor.py, docker/, sandbox/kubernetes/). docs/deploy.md
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

from mlma.cluster.on_host.supervisor import process_start_time
from mlma.core.config import Config, format_flags, option, parse_with, run_parser
from mlma.core.config.flags import flag_table

LIVE_STATES = ("progresses", "starved", "starting")


class WorkerHealth(NamedTuple):
    worker: str
    state: str  # one of ALIVE, or hung, dead, not started
    why: str


def check_workers(folder: Path, worker: str, seconds: float) -> list[WorkerHealth]:
    """How the workers are that have written here, or the one that is asked for."""
    found = [assess(path, seconds) for path in sorted(folder.glob("*.json")) if worker in ("", path.stem)]
    return found or [
        WorkerHealth(worker or "worker", "not started", f"nothing in {folder}: not started yet, or training is over")
    ]


def assess(path: Path, seconds: float) -> WorkerHealth:
    try:
        record = json.loads(path.read_text())
        silent = time.monotonic() - record["beat"]
        frames, progressed, waits_for = record["frames"], record["progressed"], record["waits_for"]
        process = f"process {record['pid']}"
        if process_start_time(record["pid"]) != record["birth"]:
            return WorkerHealth(path.stem, "dead", f"{process} is gone")
        if silent > seconds + record["may_be_silent"]:
            doing = f", when it began to wait for {waits_for}" if waits_for else ""
            return WorkerHealth(path.stem, "hung", f"{process} was last heard of {silent:.0f} s ago{doing}")
        waiting = f"; waits for {waits_for}" if waits_for else ""
        if progressed is None:
            return WorkerHealth(
                path.stem, "starting", f"for {time.monotonic() - record['began']:.0f} s, no progress yet{waiting}"
            )
        ago = time.monotonic() - progressed
        said = f"{frames:,} frames, the last {ago:.1f} s ago"
        return WorkerHealth(
            path.stem, "progresses" if ago <= seconds else "starved", said + (waiting if ago > seconds else "")
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        return WorkerHealth(path.stem, "not started", f"{path} is not whole: {error!r}")


@dataclasses.dataclass(frozen=True)
class HealthFlags:
    """Health."""

    worker: str = option(
        "", "one worker, such as learner-0 or actor-3; default: all with a heartbeat in --heartbeat_folder"
    )
    seconds: float = option(
        60.0,
        "seconds within which a worker must have made progress; without a heartbeat for that long, it counts as hung",
    )
    live: bool = option(
        False,
        "check liveness only: fail only for a worker that is hung, dead or not started; a restart does not help one that waits "
        "for other workers",
    )


USAGE = (
    "usage: python -m mlma.monitoring.health_check --heartbeat_folder=FOLDER [--flag=value ...]",
    "",
    "Exit code 0 if every worker made progress lately, else 1; a line for each says how it is.",
)


def parse_flags(argv: list[str]) -> tuple[Config, HealthFlags]:
    """ValueError in one line."""
    config, given = parse_with(argv, HealthFlags)
    question = HealthFlags(**given)
    if not config.distributed.heartbeat_folder:
        raise ValueError("--heartbeat_folder: is needed, the folder that the workers were given")
    if question.seconds <= 0:
        raise ValueError(f"--seconds={question.seconds}: must be more than 0")
    return config, question


def main() -> int:
    config, question = run_parser(
        sys.argv[1:], parse_flags, lambda: format_flags(flag_table(HealthFlags, "Health"), USAGE)
    )
    found = check_workers(Path(config.distributed.heartbeat_folder), question.worker, question.seconds)
    for health in found:
        print(f"{health.worker}: {health.state}: {health.why}")
    good = LIVE_STATES if question.live else LIVE_STATES[:1]
    return 0 if all(health.state in good for health in found) else 1


if __name__ == "__main__":
    sys.exit(main())
