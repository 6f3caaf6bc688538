"""The table of a run: metrics.csv read into arrays."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

RunTable = dict[str, Any]  # column -> float64 [reports]


def read_run(run: Path) -> RunTable:
    """Every column of metrics.csv; NaN where there is nothing."""
    path = run / "metrics.csv" if run.is_dir() else run
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as problem:
        raise ValueError(f"{path}: {problem.strerror}; allowed: a logdir with a metrics.csv, or one itself") from None
    if not rows or "frames" not in rows[0]:
        raise ValueError(f"{path}: has no reports of a run")
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
