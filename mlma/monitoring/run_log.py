"""The log of a run: messages of all modules on the console and in logdir/events.log, the workers in
logdir/workers.json, and how the run was started in logdir/sessions.json.

Modules log with `logging.getLogger(__name__)`; a role decides once where the lines go. Levels: info for the course of a
run, warning for what should not happen.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlma.utils.atomic_file import atomic_write
from mlma.utils.own_files import append_lines, open_own
from mlma.utils.provenance import git_commit
from mlma.utils.side_task import SideTask

PACKAGES = ("mlma", "agents")
CONSOLE_FORMAT, CONSOLE_DATES = "%(asctime)s {}%(message)s", "%H:%M:%S"
MAX_SESSIONS = 200  # that are kept of a run; one that is restarted forever must not fill the disk
FILE_FORMAT, FILE_DATES = "%(asctime)s %(levelname)s {}%(message)s", "%Y-%m-%d %H:%M:%S"


class LineHandler(logging.Handler):
    """Passes each line to `write`. If that fails, the other handlers say so, and the line is lost here."""

    def __init__(self, name: str, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write, self._task = write, SideTask(name)

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self._task(lambda: self._write(self.format(record)))


def print_line(line: str) -> None:
    """Prints and flushes: runs are also followed through files and pipes."""
    print(line, flush=True)


def setup_logging(
    worker: str = "", show: Callable[[str], None] = print_line, event_file: Path | None = None, timestamps: bool = True
) -> None:
    """Sends the log of this process to `show` and to `event_file`; each line names the `worker`, if given."""
    name = f"{worker}: " if worker else ""
    console = LineHandler("the console", show)
    console.setFormatter(logging.Formatter(CONSOLE_FORMAT.format(name) if timestamps else "%(message)s", CONSOLE_DATES))
    handlers: list[logging.Handler] = [console]
    if event_file:
        events = LineHandler(event_file.name, lambda line: append_lines(event_file, f"{line}\n".encode()))
        events.lock = console.lock  # one that fails logs to the other, so two locks could block each other
        events.setFormatter(logging.Formatter(FILE_FORMAT.format(name), FILE_DATES))
        handlers.append(events)
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers, logger.propagate = handlers, False
        logger.setLevel(logging.INFO)


def write_workers(path: Path, workers: list[Any]) -> None:
    """Writes the workers as of the last report."""
    with atomic_write(path) as file:
        file.write(json.dumps({"written": time.time(), "learners": workers}).encode())


class SessionRecord:
    """sessions.json: a list of the sessions of this run, each with its command, commit, changed flags, start, end and
    machine.

    A run that starts from scratch starts the list, too. Written at the start, or with the first report for which there
    is room, and at the end; a session without an end was killed, or goes on.
    """

    name = "sessions.json"

    def __init__(self, path: Path, frames: int, changed: dict[str, list[Any]] | None = None) -> None:
        """`frames` are those at which this session starts; `changed` has its flags that differ from the session
        before, each with the value before and now."""
        self._path, self._earlier, self._is_written = path, _read_sessions(path) if frames else [], False
        self._session: dict[str, Any] = {
            "command": shlex.join(sys.orig_argv),
            "commit": git_commit(),
            "started": time.strftime(FILE_DATES),
            "frames": frames,
            "changed": changed or {},
            "host": os.uname().nodename,
            "cores": len(os.sched_getaffinity(0)),
            "ended": None,
            "finished": False,
        }

    def on_report(self, row: Any) -> None:
        """Writes the file if that has not worked yet."""
        if not self._is_written:
            self.write()

    def write(self) -> None:
        """Writes the file."""
        sessions = [*self._earlier, self._session][-MAX_SESSIONS:]
        with atomic_write(self._path) as file:
            file.write((json.dumps(sessions, indent=1) + "\n").encode())
        self._is_written = True

    def close(self, finished: bool) -> None:
        """Notes the end; `finished` unless the run was stopped early."""
        self._session |= {"ended": time.strftime(FILE_DATES), "finished": finished}
        self.write()


def _read_sessions(path: Path) -> list[Any]:
    """The earlier sessions; none if the file cannot be read."""
    try:
        with open_own(path, os.O_RDONLY) as file:
            sessions = json.loads(file.read())
    except (OSError, ValueError):
        return []
    return sessions if isinstance(sessions, list) else []
