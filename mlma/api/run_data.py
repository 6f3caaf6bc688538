"""`read_run`: what a run has measured, as columns of numpy arrays; pandas is used only if its user asks for it.

Needs no TensorFlow and works while the run goes on. Not here: charts and pages (mlma/evaluation/plot.py).
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlma.evaluation.run_table import read_run as read_table


class Table(dict[str, Any]):
    """Name of a column -> numpy array; all have the same length."""

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self.values()), ()))

    def to_pandas(self) -> Any:
        """A pandas.DataFrame; ImportError if pandas is not installed."""
        import pandas

        return pandas.DataFrame(dict(self))

    def __repr__(self) -> str:
        """Its size and columns."""
        return f"<mlma.Table of {self.rows} rows: {', '.join(self)}>"


class RunData(NamedTuple):
    """What is in the files of a logdir."""

    metrics: Table  # metrics.csv: a row for each report; no rows before the first one
    config: dict[str, Any]  # all flags
    episodes: Table  # of all evaluations: evaluation, episode, return, frames, level
    evaluations: list[dict[str, Any]]  # evaluation/*.json, the oldest first: mean, median, checkpoint, ...
    sessions: list[dict[str, Any]]  # how the run was started: command, commit, date

    def __repr__(self) -> str:
        """What there is, on one line."""
        counts = f"{self.metrics.rows} reports, {len(self.evaluations)} evaluations, {len(self.sessions)} sessions"
        return f"<mlma.RunData of {self.config.get('level_name')}: {counts}>"


def read_run(logdir: str | os.PathLike[str]) -> RunData:
    """What a run has written so far; ValueError in one line if `logdir` is not the folder of a run."""
    folder = Path(logdir)
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ValueError(f"{folder}: has no config.json; allowed: the logdir of a run")
    files = sorted((folder / "evaluation").glob("evaluation-*.json"))
    found = {path: record for path in files if isinstance(record := _read_json(path), dict)}
    evaluations = sorted(found.values(), key=lambda record: str(record.get("date", "")))
    sessions = _read_json(folder / "sessions.json")
    return RunData(read_metrics(folder), config, _read_episodes(list(found)), evaluations, sessions if sessions else [])


def read_metrics(logdir: Path) -> Table:
    """The rows of metrics.csv; none before the first report."""
    try:
        return Table(read_table(logdir))
    except ValueError:
        return Table({"frames": np.zeros(0)})


def _read_episodes(files: list[Path]) -> Table:
    """The episodes of these evaluations, from the .csv beside each .json."""
    rows: list[dict[str, str]] = []
    for file in files:
        try:
            with file.with_suffix(".csv").open(newline="") as table:
                rows += [{"evaluation": file.stem} | row for row in csv.DictReader(table)]
        except OSError:
            continue
    numbers = {"episode": int, "return": float, "frames": int}
    return Table(
        {
            name: np.array([row.get(name, "") for row in rows]).astype(numbers.get(name, str))
            for name in ("evaluation", "episode", "return", "frames", "level")
        }
    )


def _read_json(path: Path) -> Any:
    """The contents; None if the file is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
