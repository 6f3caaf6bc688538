"""Where reports go beside the console: metrics.csv, TensorBoard, and what the user has installed.

A writer is called with each row. Not here: what is in a row (mlma/monitoring/metrics.py).
"""

from __future__ import annotations

import csv
import importlib
import io
import math
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlma.monitoring.metrics import Row
from mlma.utils.atomic_file import atomic_write

# Columns that depend on how fast the machine is.
WALL_CLOCK_COLUMNS = ("seconds", "frames_per_second", "learner_steps_per_second", "eta_seconds", "queue/fill")
WALL_CLOCK_PREFIXES = ("learner/", "slowest/", "receiver/", "actors/", "host/", "faults/", "evaluation/")


class CsvWriter:
    """Appends to metrics.csv. A resumed run drops the rows that came after its checkpoint; new columns widen the file."""

    def __init__(self, path: Path, resume_frames: int, digits: int = 6) -> None:
        self._path, self._digits = path, digits
        self._rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if _number(row.get("frames")) <= resume_frames]
        self._columns: list[str] = list(self._rows[0]) if self._rows else []
        if path.exists():
            self._write_all()

    def __call__(self, row: Row) -> None:
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

    def _write_all(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self._rows)
        with atomic_write(self._path) as file:
            file.write(text.getvalue().encode())
        self._rows = []


class DeterministicCsvLogger:
    """curve.csv: what does not depend on how fast the machine is, with every digit."""

    def __init__(self, path: Path, resume_frames: int) -> None:
        self._file = CsvWriter(path, resume_frames, digits=17)

    def __call__(self, row: Row) -> None:
        self._file(
            {
                name: value
                for name, value in row.items()
                if name not in WALL_CLOCK_COLUMNS and not name.startswith(WALL_CLOCK_PREFIXES)
            }
        )


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


class TensorBoardWriter:
    """Every number of a row as a scalar over frames."""

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf

        self._tf = tf
        self._writer = tf.summary.create_file_writer(str(folder))

    def __call__(self, row: Row) -> None:
        with self._writer.as_default(step=int(row["frames"])):
            for name, value in row.items():
                if name != "frames" and math.isfinite(value):
                    self._tf.summary.scalar(name, value)
        self._writer.flush()


class WandbWriter:
    """Weights & Biases; its own environment variables (WANDB_MODE, WANDB_PROJECT, ...) say where to. One run for a logdir."""

    def __init__(self, wandb: Any, folder: Path, config: dict[str, Any]) -> None:
        self._run = wandb.init(dir=str(folder), name=folder.name, id=_wandb_id(folder), resume="allow", config=config)
        self._run.define_metric("*", step_metric="frames")

    def __call__(self, row: Row) -> None:
        self._run.log({name: value for name, value in row.items() if math.isfinite(value)})

    def end(self, whole: bool) -> None:
        self._run.finish()


class MlflowWriter:
    """MLflow; its own environment variables (MLFLOW_TRACKING_URI, ...) say where to."""

    def __init__(self, mlflow: Any, folder: Path, config: dict[str, Any]) -> None:
        self._mlflow = mlflow
        mark = folder / "mlflow_run"
        known = mark.read_text().strip() if mark.exists() else None
        self._run = mlflow.start_run(run_id=known, run_name=None if known else folder.name)
        mark.write_text(self._run.info.run_id + "\n")
        if not known:
            mlflow.log_params(config)

    def __call__(self, row: Row) -> None:
        values = {name: float(value) for name, value in row.items() if math.isfinite(value)}
        self._mlflow.log_metrics(values, step=int(row["frames"]))

    def end(self, whole: bool) -> None:
        self._mlflow.end_run()


def _wandb_id(folder: Path) -> str:
    """One for each logdir, so that a resumed run goes on."""
    mark = folder / "wandb_run"
    if not mark.exists():
        mark.write_text(secrets.token_hex(8) + "\n")
    return mark.read_text().strip()


OPTIONAL_LOGGERS: dict[str, Callable[..., Any]] = {"wandb": WandbWriter, "mlflow": MlflowWriter}


class BestEffortLogger:
    """A writer whose service may fail: training goes on, and the first failure is said."""

    def __init__(self, name: str, writer: Any, say: Callable[[str], None]) -> None:
        self._name, self._writer, self._say = name, writer, say
        self._failed = False

    def __call__(self, row: Row) -> None:
        self._try(lambda: self._writer(row))

    def end(self, whole: bool) -> None:
        self._try(lambda: self._writer.end(whole))

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as problem:  # whatever a package raises where its service does not answer
            if not self._failed:
                self._say(f"{self._name} failed: {type(problem).__name__}: {problem}; training goes on")
            self._failed = True


def make_loggers(names: str, folder: Path, config: dict[str, Any], say: Callable[[str], None]) -> list[Callable[[Row], None]]:
    """Those of --writers; ValueError in one line if a package is missing."""
    made: list[Callable[[Row], None]] = []
    for name in filter(None, names.split(",")):
        if name == "tensorboard":
            made.append(TensorBoardWriter(folder))
            continue
        try:
            package = importlib.import_module(name)
        except ImportError:
            raise ValueError(
                f"--writers={names}: the package {name} is not installed; pip install {name}, or leave it out"
            ) from None
        made.append(BestEffortLogger(name, OPTIONAL_LOGGERS[name](package, folder, config), say))
    return made
