"""A run's log: messages on the console and in logdir/events.log, and the list of workers in logdir/workers.json."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlma.distributed.allreduce import Allreduce
from mlma.utils.atomic_file import atomic_write

Say = Callable[[str], None]


def event_log(say: Say, path: Path, allreduce: Allreduce) -> Say:
    """`say` that also keeps its lines, with their date, for the report: mlma.evaluation.html_report."""
    name = "" if allreduce.size == 1 else f"learner {allreduce.rank}: "

    def both(line: str) -> None:
        say(name + line)
        with contextlib.suppress(OSError), path.open("a") as file:  # a full disk must not end a run
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name}{line}\n")

    return both


def write_workers(path: Path, workers: list[Any]) -> None:
    """Who took part, when last reported."""
    with contextlib.suppress(OSError), atomic_write(path) as file:
        file.write(json.dumps({"written": time.time(), "learners": workers}).encode())
