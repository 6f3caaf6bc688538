"""Where reports go in addition to the console: metrics.csv, TensorBoard, and optional services.

Each logger is a `ReportListener`. Not here: what is in a row (mlma/monitoring/metrics.py).
"""

from __future__ import annotations

import collections
import contextlib
import csv
import importlib
import io
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mlma.core import config as configs
from mlma.core.config import Config
from mlma.monitoring.episode_statistics import Row
from mlma.monitoring.metrics import ReportListener
from mlma.utils.atomic_file import atomic_write
from mlma.utils.code_layout import install_hint
from mlma.utils.own_files import append_lines, open_own
from mlma.utils.side_task import SideTask

logger = logging.getLogger(__name__)

MAX_PENDING_ROWS = 10_000  # rows that wait for room on the disk
EVENT_FILES = "events.out.tfevents.*"
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


class TensorBoardWriter:
    """Each finite value of a row as a scalar over frames.

    After a failure, such as a full disk, it cuts off what it had written of that report, and starts a new event file.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf

        self._tf, self._folder = tf, folder
        self._writer: Any = None
        self._path: Path | None = None
        self._size = 0  # of the event file after the last report

    def on_report(self, row: Row) -> None:
        """Writes and flushes."""
        try:
            if self._writer is None:
                self._open()
            with self._writer.as_default(step=int(row["frames"])):
                for name, value in row.items():
                    if name != "frames" and math.isfinite(value):
                        self._tf.summary.scalar(name, value)
            self._writer.flush()
            self._size = self._path.stat().st_size if self._path else 0
        except BaseException:
            self._give_up_file()
            raise

    def _open(self) -> None:
        self._size, before = 0, set(self._folder.glob(EVENT_FILES))
        try:
            self._writer = self._tf.summary.create_file_writer(str(self._folder))
            self._writer.flush()
        finally:
            self._path = next(iter(set(self._folder.glob(EVENT_FILES)) - before), None)

    def _give_up_file(self) -> None:
        """Ends the event file after the last whole report; TensorFlow would go on after a part of a record."""
        with contextlib.suppress(Exception):
            self._writer.close()
        self._writer = None  # its buffer is written or dropped now
        path, self._path = self._path, None
        if path:
            with contextlib.suppress(OSError):
                if self._size:
                    os.truncate(path, min(self._size, path.stat().st_size))
                else:
                    path.unlink()

    def close(self, finished: bool) -> None:
        """Nothing to do: each report is flushed."""


class WandbWriter:
    """Weights & Biases. Its own environment variables (WANDB_MODE, WANDB_PROJECT, ...) configure it. One run per
    logdir."""

    name = "wandb"

    def __init__(self, wandb: Any, folder: Path, config: dict[str, Any]) -> None:
        self._run = wandb.init(dir=str(folder), name=folder.name, id=_wandb_id(folder), resume="allow", config=config)
        self._run.define_metric("*", step_metric="frames")

    def on_report(self, row: Row) -> None:
        """Logs the finite values."""
        self._run.log({name: value for name, value in row.items() if math.isfinite(value)})

    def close(self, finished: bool) -> None:
        """Finishes the upload."""
        self._run.finish()


def _wandb_id(folder: Path) -> str:
    """One id per logdir, so that a resumed run continues."""
    mark = folder / "wandb_run"
    if not mark.exists():
        _write_mark(mark, secrets.token_hex(8))
    return mark.read_text().strip()


def _write_mark(mark: Path, run: str) -> None:
    with atomic_write(mark) as file:
        file.write(f"{run}\n".encode())


class MlflowWriter:
    """MLflow. Its own environment variables (MLFLOW_TRACKING_URI, ...) configure it."""

    name = "mlflow"

    def __init__(self, mlflow: Any, folder: Path, config: dict[str, Any]) -> None:
        self._mlflow = mlflow
        mark = folder / "mlflow_run"
        known = mark.read_text().strip() if mark.exists() else None
        self._run = mlflow.start_run(run_id=known, run_name=None if known else folder.name)
        _write_mark(mark, self._run.info.run_id)
        if not known:
            mlflow.log_params(config)

    def on_report(self, row: Row) -> None:
        """Logs the finite values."""
        values = {name: float(value) for name, value in row.items() if math.isfinite(value)}
        self._mlflow.log_metrics(values, step=int(row["frames"]))

    def close(self, finished: bool) -> None:
        """Ends the run."""
        self._mlflow.end_run()


OPTIONAL_LOGGERS: dict[str, Callable[..., ReportListener]] = {"wandb": WandbWriter, "mlflow": MlflowWriter}


def make_loggers(names: str, folder: Path, config: dict[str, Any]) -> list[ReportListener]:
    """The loggers of --writers; ValueError in one line if a package is missing."""
    made: list[ReportListener] = []
    for name in filter(None, names.split(",")):
        if name == "tensorboard":
            made.append(TensorBoardWriter(folder))
            continue
        try:
            package = importlib.import_module(name)
        except ImportError:
            raise ValueError(
                f"--writers={names}: the package {name} is not installed; "
                f"install it with: {install_hint(name)}, or remove it from the list"
            ) from None
        # One whose service does not respond now is left out.
        if (listener := SideTask(name)(OPTIONAL_LOGGERS[name], package, folder, config)) is not None:
            made.append(listener)
    return made
