"""Real runs of experiment.py for the tests: start, watch, signal. Ends only what it started."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--level_name=catch", "--envs_per_actor=8", "--batch_size=8", "--unroll_length=10", "--report_every_seconds=0.5"]


class Process:
    """One experiment.py with its console in a file."""

    def __init__(
        self, folder: Path, name: str, *flags: str, env: dict[str, str] | None = None, command: list[str] | None = None
    ) -> None:
        """`command` stands in for python experiment.py."""
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
        return self.console.read_text(errors="replace")

    def expect(self, words: str, seconds: float = 120) -> None:
        """Waits until the console says `words`; `pytest -rP` shows how long."""
        begun = time.monotonic()
        wait_for(lambda: words in self.text(), seconds, lambda: f"no {words!r} in:\n{self.text()}", self)
        print(f"after {time.monotonic() - begun:5.1f} s: {words}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 60) -> int:
        begun = time.monotonic()
        code = self.process.wait(seconds)
        print(f"after {time.monotonic() - begun:5.1f} s: exit code {code}")
        return code

    def children(self) -> list[int]:
        return [pid for pid, parent in parents().items() if parent == self.process.pid]

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


def wait_for(condition: Callable[[], Any], seconds: float, explain: Callable[[], str], running: Process | None = None) -> None:
    end = time.monotonic() + seconds
    while not condition():
        ended = running is not None and running.process.poll() is not None and not condition()
        assert not ended and time.monotonic() < end, explain()
        time.sleep(0.1)


def parents() -> dict[int, int]:
    """Process id -> parent's id of all living processes (zombies are not living)."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found[int(stat.parent.name)] = int(fields[1])
    return found


def gone(pids: list[int]) -> bool:
    return not set(pids) & set(parents())


def descendants(pid: int) -> list[int]:
    everyone = parents()
    found, todo = [], [pid]
    while todo:
        above = todo.pop()
        below = [child for child, parent in everyone.items() if parent == above]
        found += below
        todo += below
    return found


def rows(logdir: Path) -> list[dict[str, float]]:
    table = logdir / "metrics.csv"
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return [{k: float(v or "nan") for k, v in row.items()} for row in csv.DictReader(file)]


def frames(logdir: Path) -> float:
    table = rows(logdir)
    return table[-1]["frames"] if table else 0.0


def wait_for_progress(run: Process, logdir: Path, seconds: float = 120) -> None:
    """Waits until more frames are reported than now."""
    now = frames(logdir)
    wait_for(lambda: frames(logdir) > now, seconds, lambda: f"no progress beyond {now} frames:\n{run.text()}", run)
