"""Reads metrics.csv of a run into arrays."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

RunTable = dict[str, Any]  # column -> float64 [reports]


def read_run(run: Path) -> RunTable:
    """All columns of metrics.csv, NaN for empty cells. `run` is a logdir or the file; ValueError if there is none."""
    path = run / "metrics.csv" if run.is_dir() else run
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; allowed: a logdir with a metrics.csv, or a metrics.csv file"
        ) from None
    if not rows or "frames" not in rows[0]:
        raise ValueError(f"{path}: contains no reports of a run")
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
