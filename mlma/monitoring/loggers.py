"""Where reports go in addition to the console: metrics.csv, TensorBoard, and optional services.

Each logger is a `ReportListener`. Not here: what is in a row (mlma/monitoring/metrics.py).
"""

from __future__ import annotations

import csv
import importlib
import io
import logging
import math
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlma.monitoring.episode_statistics import Row
from mlma.monitoring.metrics import ReportListener
from mlma.utils.atomic_file import atomic_write

logger = logging.getLogger(__name__)

# Columns that depend on the speed of the machine.
WALL_CLOCK_COLUMNS = ("seconds", "frames_per_second", "learner_steps_per_second", "eta_seconds", "queue/fill")
WALL_CLOCK_PREFIXES = ("learner/", "slowest/", "receiver/", "actors/", "host/", "faults/", "evaluation/")


class CsvWriter:
    """Appends to metrics.csv. A resumed run drops the rows after its checkpoint; new columns rewrite the file."""

    def __init__(self, path: Path, resume_frames: int, digits: int = 6) -> None:
        self._path, self._digits = path, digits
        self._rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if _number(row.get("frames")) <= resume_frames]
        self._columns: list[str] = list(self._rows[0]) if self._rows else []
        if path.exists():
            self._write_all()

    def on_report(self, row: Row) -> None:
        """Appends the row."""
        new = [name for name in row if name not in self._columns]
        if new:
            with self._path.open(newline="") if self._path.exists() else open("/dev/null", newline="") as file:
                self._rows = list(csv.DictReader(file))
            self._columns += new
            self._write_all()
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(
                {k: f"{v:.{self._digits}g}" if isinstance(v, float) else v for k, v in row.items()}
            )

    def close(self, finished: bool) -> None:
        """Nothing to do: the file is complete after each report."""

    def _write_all(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self._rows)
        with atomic_write(self._path) as file:
            file.write(text.getvalue().encode())
        self._rows = []


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


class DeterministicCsvLogger:
    """curve.csv: the columns that do not depend on the speed of the machine, with all digits."""

    def __init__(self, path: Path, resume_frames: int) -> None:
        self._file = CsvWriter(path, resume_frames, digits=17)

    def on_report(self, row: Row) -> None:
        """Appends the row."""
        kept = {name: value for name, value in row.items() if not name.startswith(WALL_CLOCK_PREFIXES)}
        self._file.on_report({name: value for name, value in kept.items() if name not in WALL_CLOCK_COLUMNS})

    def close(self, finished: bool) -> None:
        """Nothing to do."""


class TensorBoardWriter:
    """Each finite value of a row as a scalar over frames."""

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf

        self._tf = tf
        self._writer = tf.summary.create_file_writer(str(folder))

    def on_report(self, row: Row) -> None:
        """Writes and flushes."""
        with self._writer.as_default(step=int(row["frames"])):
            for name, value in row.items():
                if name != "frames" and math.isfinite(value):
                    self._tf.summary.scalar(name, value)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        """Nothing to do: each report is flushed."""


class WandbWriter:
    """Weights & Biases. Its own environment variables (WANDB_MODE, WANDB_PROJECT, ...) configure it. One run per
    logdir."""

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
        mark.write_text(secrets.token_hex(8) + "\n")
    return mark.read_text().strip()


class MlflowWriter:
    """MLflow. Its own environment variables (MLFLOW_TRACKING_URI, ...) configure it."""

    def __init__(self, mlflow: Any, folder: Path, config: dict[str, Any]) -> None:
        self._mlflow = mlflow
        mark = folder / "mlflow_run"
        known = mark.read_text().strip() if mark.exists() else None
        self._run = mlflow.start_run(run_id=known, run_name=None if known else folder.name)
        mark.write_text(self._run.info.run_id + "\n")
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


class BestEffortLogger:
    """A logger whose service may fail: training continues, and the first failure is logged."""

    def __init__(self, name: str, inner: ReportListener) -> None:
        self._name, self._inner = name, inner
        self._failed = False

    def on_report(self, row: Row) -> None:
        """See ReportListener."""
        self._try(lambda: self._inner.on_report(row))

    def close(self, finished: bool) -> None:
        """See ReportListener."""
        self._try(lambda: self._inner.close(finished))

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as problem:  # packages raise anything when their service does not respond
            if not self._failed:
                logger.warning("%s failed: %s: %s; training continues", self._name, type(problem).__name__, problem)
            self._failed = True


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
                f"pip install {name}, or remove it from the list"
            ) from None
        made.append(BestEffortLogger(name, OPTIONAL_LOGGERS[name](package, folder, config)))
    return made
