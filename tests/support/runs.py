"""Real runs of experiment.py in tests: start, watch, signal. Ends only what it started."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlma.monitoring.metric_catalog import undocumented

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--level_name=catch",
    "--envs_per_actor=8",
    "--batch_size=8",
    "--unroll_length=10",
    "--report_every_seconds=0.5",
]


class Process:
    """One experiment.py with its console in a file."""

    def __init__(
        self, folder: Path, name: str, *flags: str, env: dict[str, str] | None = None, command: list[str] | None = None
    ) -> None:
        """`command` replaces python experiment.py."""
        folder.mkdir(parents=True, exist_ok=True)
        self.console = folder / f"{name}.console"
        with self.console.open("ab") as out:
            self.process = subprocess.Popen(
                [*(command or [sys.executable, "experiment.py"]), *flags],
                cwd=ROOT,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if k != "MLMA_TOKEN"} | (env or {}),
            )

    def text(self) -> str:
        """The console so far."""
        return self.console.read_text(errors="replace")

    def expect(self, text: str, seconds: float = 120) -> None:
        """Waits until the console contains `text`; `pytest -rP` shows how long."""
        began = time.monotonic()
        wait_for(lambda: text in self.text(), seconds, lambda: f"no {text!r} in:\n{self.text()}", self)
        print(f"after {time.monotonic() - began:5.1f} s: {text}")

    def signal(self, number: int) -> None:
        """Sends a signal to this process only."""
        self.process.send_signal(number)

    def wait(self, seconds: float = 60) -> int:
        """Waits for the end; the exit code."""
        began = time.monotonic()
        code = self.process.wait(seconds)
        print(f"after {time.monotonic() - began:5.1f} s: exit code {code}")
        return code

    def children(self) -> list[int]:
        """The process ids of living children, without the one that removes the folder for temporary files."""
        return [pid for pid, parent in parents().items() if parent == self.process.pid and not is_remover(pid)]

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: Any) -> None:
        children = self.children()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in children:
            if pid in parents():
                os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    """A port of loopback that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(
    condition: Callable[[], Any], seconds: float, explain: Callable[[], str], running: Process | None = None
) -> None:
    """Waits for `condition`; fails after `seconds`, or when `running` ends before."""
    end = time.monotonic() + seconds
    while not condition():
        ended = running is not None and running.process.poll() is not None and not condition()
        assert not ended and time.monotonic() < end, explain()
        time.sleep(0.1)


def parents() -> dict[int, int]:
    """Process id -> parent's id of all living processes, without zombies."""
    parent_of = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parent_of[int(stat.parent.name)] = int(fields[1])
    return parent_of


def is_remover(pid: int) -> bool:
    """Whether this process waits for the end of another one to remove its files: mlma/envs/vector/temp_folder.py."""
    try:
        return b"mlma-remover" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def gone(pids: list[int]) -> bool:
    """Whether none of these processes is alive."""
    return not set(pids) & set(parents())


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    parent_of = parents()
    below, pending = [], [pid]
    while pending:
        current = pending.pop()
        children = [child for child, parent in parent_of.items() if parent == current]
        below += children
        pending += children
    return below


def rows(logdir: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv so far. Every column must be in the reference of metrics."""
    table = logdir / "metrics.csv"
    if not table.exists():
        return []
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = undocumented(reader.fieldnames or ())
        assert not missing, f"columns of {table} that mlma/monitoring/metric_catalog.py does not describe: {missing}"
        return [{k: float(v or "nan") for k, v in row.items()} for row in reader]


def frames(logdir: Path) -> float:
    """The frames in the last row of metrics.csv."""
    table = rows(logdir)
    return table[-1]["frames"] if table else 0.0


def wait_for_progress(run: Process, logdir: Path, seconds: float = 120) -> None:
    """Waits until more frames are reported than now."""
    now = frames(logdir)
    wait_for(lambda: frames(logdir) > now, seconds, lambda: f"no progress beyond {now} frames:\n{run.text()}", run)
