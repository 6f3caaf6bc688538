"""What the files of a run tell about it: frames, scores, checkpoints. Reads them without numpy, while the run goes on.

Not here: whole curves (mlma/studies/report_page/page.py).
"""

from __future__ import annotations

import csv
import fcntl
import json
import math
import os
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from mlma.envs.reference_scores import SCORE_CAP, level_range
from mlma.studies.options import CAPPED_SCORE

CHECKPOINT = re.compile(r"checkpoint-(\d+)\.npz")
RETURN = "return/mean"
WATCH_LOCK = "cluster/watched"


class Saved(NamedTuple):
    """A checkpoint, the frames that it was saved at, and the score of that time; NaN if there was none."""

    path: Path
    frames: float
    score: float


def read_rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv so far."""
    try:
        with (run / "metrics.csv").open(newline="", errors="replace") as file:
            return list(csv.DictReader(line.replace("\0", "") for line in file))
    except (OSError, csv.Error):
        return []


def number(text: str | None) -> float:
    """A cell of metrics.csv; NaN if it is empty, or not a number."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def score_of(row: dict[str, str], metric: str, level: str) -> float:
    """The metric in a row; the capped score of a run with one level is that of its return."""
    value = number(row.get(metric))
    if metric == CAPPED_SCORE and metric not in row and (scores := level_range(level)):
        return min(SCORE_CAP, scores.normalised(number(row.get(RETURN))))
    return value


def last_score(run: Path, metric: str, level: str) -> tuple[float, float]:
    """(frames, score) of the last report; (0, NaN) before the first one."""
    rows = read_rows(run)
    return (number(rows[-1].get("frames")), score_of(rows[-1], metric, level)) if rows else (0.0, math.nan)


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint with the highest step."""
    try:
        names = sorted(name for name in os.listdir(run / "checkpoints") if CHECKPOINT.fullmatch(name))
    except OSError:
        return None
    return run / "checkpoints" / names[-1] if names else None


def saved(path: Path | None, metric: str, level: str) -> Saved | None:
    """What is known about a checkpoint; None if there is none, or it cannot be read."""
    if path is None:
        return None
    try:
        frames = float(read_description(path)["frames"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    until = [row for row in read_rows(path.parents[1]) if number(row.get("frames")) <= frames]
    return Saved(path, frames, score_of(until[-1], metric, level) if until else math.nan)


def read_description(path: Path) -> dict[str, Any]:
    """The description in a checkpoint, an array of bytes in the format of numpy: mlma/learning/checkpoint_file.py."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        data = archive.read("__meta__.npy")
    if data[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError(f"{path}: not a checkpoint")
    start = 10 + int.from_bytes(data[8:10], "little")
    description = json.loads(data[start:])
    if not isinstance(description, dict):
        raise ValueError(f"{path}: not a checkpoint")
    return description


def frame_budget(run: Path) -> float:
    """The frames that the run trains for, from its config.json; infinite if it has none yet."""
    try:
        return float(json.loads((run / "config.json").read_text())["total_environment_frames"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def is_watched(run: Path) -> bool:
    """Whether a process watches this run on hosts (mlma/studies/placement/watcher.py)."""
    return is_in_use(run, WATCH_LOCK)


def hosts_in_use(run: Path) -> list[str]:
    """Hosts on which something of a run may be left, by its frontend's record (mlma/cluster/state.py)."""
    try:
        return list(json.loads((run / "cluster" / "run.json").read_text())["contacted_hosts"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def is_in_use(folder: Path, lock: str = ".lock") -> bool:
    """Whether a process holds the lock of a run's folder, or of a study's."""
    try:
        with (folder / lock).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
