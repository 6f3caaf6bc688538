"""metrics.csv and curve.csv, and config.json beside them: the files that every run writes.

Not here: what is in a row (mlma/monitoring/metrics.py).
"""

from __future__ import annotations

import collections
import csv
import io
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlma.core import config as configs
from mlma.core.config import Config
from mlma.monitoring.episode_statistics import Row
from mlma.utils.atomic_file import atomic_write
from mlma.utils.own_files import append_lines, open_own

logger = logging.getLogger(__name__)

MAX_PENDING_ROWS = 10_000  # rows that wait for room on the disk
# Columns that depend on the speed of the machine.
WALL_CLOCK_COLUMNS = (
    "seconds",
    "core_seconds",
    "frames_per_second",
    "learner_steps_per_second",
    "eta_seconds",
    "queue/fill",
)
WALL_CLOCK_PREFIXES = ("learner/", "slowest/", "receiver/", "actors/", "host/", "faults/", "evaluation/")


class ConfigWriter:
    """config.json: written at the start of a run, or with the first report for which there is room."""

    name = "config.json"

    def __init__(self, config: Config, path: Path) -> None:
        self._config, self._path, self._is_written = config, path, False

    def on_report(self, row: Row) -> None:
        """Writes the file if it is not there yet."""
        self.write()

    def write(self) -> None:
        """Writes the file unless that is done."""
        if not self._is_written:
            configs.save(self._config, self._path)
            self._is_written = True

    def close(self, finished: bool) -> None:
        """Makes a last attempt."""
        self.write()


class CsvWriter:
    """Appends to a CSV file. A resumed run drops the rows after its checkpoint; new columns rewrite the file.

    Rows that could not be written are kept, and written as soon as there is room again.
    """

    def __init__(self, path: Path, resume_frames: int, digits: int = 6) -> None:
        self.name = path.name
        self._path, self._resume_frames, self._digits = path, resume_frames, digits
        self._columns: list[str] | None = None  # None: the rows after the checkpoint have not been dropped yet
        self._pending: collections.deque[dict[str, Any]] = collections.deque()
        self._dropped = 0  # rows that were too many to keep

    def on_report(self, row: Row) -> None:
        """Appends the row, and those that are still missing."""
        if len(self._pending) == MAX_PENDING_ROWS:
            self._pending.popleft()
            self._dropped += 1
        self._pending.append({k: f"{v:.{self._digits}g}" if isinstance(v, float) else v for k, v in row.items()})
        self._write_pending()

    def close(self, finished: bool) -> None:
        """Makes a last attempt, and says which rows are missing."""
        try:
            if self._pending:
                self._write_pending()
        finally:
            if missing := self._dropped + len(self._pending):
                logger.warning("%s lacks %d rows", self._path, missing)

    def _write_pending(self) -> None:
        if self._columns is None:
            self._drop_later_rows()
        assert self._columns is not None
        known = self._columns
        new = list(dict.fromkeys(name for row in self._pending for name in row if name not in known))
        if new or not self._path.exists() or not self._path.stat().st_size:
            self._write_all([*known, *new], [*self._read()[1], *self._pending])
        else:
            append_lines(self._path, _csv_text(known, self._pending, header=False))
        self._pending.clear()

    def _drop_later_rows(self) -> None:
        if not self._path.exists():
            self._columns = []
            return
        columns, found = self._read()
        kept = [row for row in found if _number(row.get("frames")) <= self._resume_frames]
        self._write_all(columns if kept else [], kept)

    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Columns and rows of the file. Of a damaged one, what can be read."""
        if not self._path.exists():
            return [], []
        with open_own(self._path, os.O_RDONLY) as file:
            text = file.read().decode(errors="replace").replace("\0", "")
        whole, end, _ = text.rpartition("\n")  # a last line without an end is part of a row
        reader = csv.DictReader(io.StringIO(whole + end, newline=""))
        rows: list[dict[str, Any]] = []
        try:
            rows += reader
        except csv.Error as problem:
            logger.warning("%s: damaged after row %d: %s; the rest is dropped", self._path, len(rows), problem)
        return list(reader.fieldnames or ()), rows

    def _write_all(self, columns: list[str], rows: list[dict[str, Any]]) -> None:
        with atomic_write(self._path) as file:
            file.write(_csv_text(columns, rows, header=True))
        self._columns = columns


def _csv_text(columns: list[str], rows: Iterable[dict[str, Any]], header: bool) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


class DeterministicCsvLogger:
    """curve.csv: the columns that do not depend on the speed of the machine, with all digits."""

    def __init__(self, path: Path, resume_frames: int) -> None:
        self._file = CsvWriter(path, resume_frames, digits=17)
        self.name = self._file.name

    def on_report(self, row: Row) -> None:
        """Appends the row."""
        kept = {name: value for name, value in row.items() if not name.startswith(WALL_CLOCK_PREFIXES)}
        self._file.on_report({name: value for name, value in kept.items() if name not in WALL_CLOCK_COLUMNS})

    def close(self, finished: bool) -> None:
        """Makes a last attempt, and says which rows are missing."""
        self._file.close(finished)
