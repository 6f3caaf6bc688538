"""Where reports go in addition to the console: metrics.csv, TensorBoard, and optional services.

Each logger is a `ReportListener`. Not here: what is in a row (mlma/monitoring/metrics.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlma.monitoring.loggers.csv_files import ConfigWriter, CsvWriter, DeterministicCsvLogger
from mlma.monitoring.loggers.tensorboard import TensorBoardWriter
from mlma.monitoring.loggers.trackers import MlflowWriter, TrackioWriter, WandbWriter
from mlma.monitoring.metrics import ReportListener
from mlma.utils.code_layout import install_hint
from mlma.utils.side_task import SideTask

__all__ = ["ConfigWriter", "CsvWriter", "DeterministicCsvLogger", "TensorBoardWriter", "make_loggers"]

OPTIONAL_LOGGERS: dict[str, Callable[..., ReportListener]] = {
    "wandb": WandbWriter,
    "mlflow": MlflowWriter,
    "trackio": TrackioWriter,
}


def make_loggers(names: str, folder: Path, config: dict[str, Any]) -> list[ReportListener]:
    """The loggers of --writers; ValueError in one line if a package is missing."""
    made: list[ReportListener] = []
    for name in filter(None, names.split(",")):
        if name == "tensorboard":
            made.append(TensorBoardWriter(folder, config))
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
