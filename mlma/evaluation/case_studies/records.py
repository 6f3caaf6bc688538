"""What a page says about a run, read from its logdir, and kept in two small files that outlive the logdir.

`runs/NAME.json` holds the record, `runs/NAME.csv` some of the reports. A run may be incomplete: what its logdir lacks
is None. Nothing in a record names a folder of the machine. Not here: the pages
(mlma/evaluation/case_studies/pages.py).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from mlma.core.config import flag_table
from mlma.envs.reference_scores import table_key
from mlma.evaluation.run_table import RunTable, read_run

RUNS_FOLDER = "runs"
MAX_ROWS = 200  # of a kept curve
RETURN_COLUMNS = ("return/greedy", "return/mean")  # the first that a run has: exploring actors say little
LEVEL_COLUMN = "level_return/"
PLACES = ("logdir", "learner_host", "actor_hosts")  # flags that name hosts or folders
MAX_GIF_BYTES = 1_000_000


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """One run. `levels` are names of levels; results of a level are under its name."""

    name: str
    levels: list[str]
    algorithm: str
    agent: str
    preset: str | None
    seed: int
    command: str | None
    commit: str | None
    started: str | None
    cores: int | None  # of the first learner's host
    actors: str
    frames: float
    total_frames: float
    minutes: float
    core_minutes: float | None
    core_minutes_is_bound: bool  # measured as the load of the machine, other processes included
    column: str  # of metrics.csv that is shown
    last_100: dict[str, float]
    evaluation: dict[str, Any] | None
    gif: dict[str, Any] | None  # of the page's GIF, if it is from this run
    flags: dict[str, Any]  # that differ from their defaults

    @property
    def key(self) -> str:
        """The name of the page of this run."""
        return "_".join(map(level_key, self.levels))

    @property
    def series(self) -> str:
        """The name of the run without its seed: runs that differ in nothing else share it."""
        return re.sub(rf"[_-](seed)?{self.seed}$", "", self.name)

    def protocol_flags(self, level: str) -> dict[str, Any]:
        """The flags of one level, defaults included."""
        defaults = {name: flag.default for name, flag in flag_table().items()}
        return defaults | self.flags | {"level_name": level}


def level_key(level: str) -> str:
    """A level under any of its names, as the name of a file."""
    return re.sub(r"\W", "_", table_key(level))


def find_logdirs(folder: Path) -> list[Path]:
    """The logdirs in a folder, or the folder itself if it is one; ValueError if there are none."""
    found = [folder] if (folder / "config.json").exists() else [path.parent for path in folder.glob("*/config.json")]
    if not found:
        raise ValueError(f"{folder}: contains no logdir, which has a config.json")
    return sorted(found)


def read_record(logdir: Path) -> tuple[RunRecord, RunTable, Path | None]:
    """The record of a run, its reports, and a GIF of its evaluation; ValueError if it has made no report."""
    table = read_run(logdir)
    config = _read_json(logdir / "config.json")
    if not isinstance(config, dict) or "level_name" not in config:
        raise ValueError(f"{logdir}/config.json: is not the configuration of a run")
    levels = [level.strip() for level in str(config["level_name"]).split(",")]
    sessions = [session for session in _read_json(logdir / "sessions.json") or [] if isinstance(session, dict)]
    first: dict[str, Any] = sessions[0] if sessions else {}
    core_minutes, is_bound = _core_minutes(table, first.get("cores"))
    column = next((name for name in RETURN_COLUMNS if _last(table, name) is not None), RETURN_COLUMNS[-1])
    evaluation, gif = _evaluation(logdir, levels)
    learners = len((_read_json(logdir / "workers.json") or {}).get("learners", [])) or 1
    record = RunRecord(
        name=logdir.resolve().name,
        levels=levels,
        algorithm=str(config.get("algorithm", "")),
        agent=str(config.get("agent_name", "")),
        preset=config.get("preset"),
        seed=int(config.get("seed", 0)),
        command=_tidy_command(first["command"], logdir.resolve().name) if first.get("command") else None,
        commit=first.get("commit"),
        started=first.get("started") or _first_date(logdir / "events.log"),
        cores=first.get("cores"),
        actors=f"{learners} + {learners * int(config.get('num_actors', 0))} x {config.get('envs_per_actor')}",
        frames=float(table["frames"][-1]),
        total_frames=float(config.get("total_environment_frames", 0)),
        minutes=float(table["seconds"][-1]) / 60,
        core_minutes=core_minutes,
        core_minutes_is_bound=is_bound,
        column=column,
        last_100=_last_returns(table, levels, column),
        evaluation=evaluation,
        gif={"episode": "median", "return": gif[1]} if gif else None,
        flags=_changed_flags(config),
    )
    return record, table, gif[0] if gif else None


def _read_json(path: Path) -> Any:
    """The contents, or None if there are none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _last(table: RunTable, name: str) -> float | None:
    values = table.get(name, np.array([]))
    values = values[np.isfinite(values)]
    return float(values[-1]) if len(values) else None


def _last_returns(table: RunTable, levels: list[str], column: str) -> dict[str, float]:
    names = {level: f"{LEVEL_COLUMN}{level}" for level in levels} if len(levels) > 1 else {levels[0]: column}
    return {level: value for level, name in names.items() if (value := _last(table, name)) is not None}


def _core_minutes(table: RunTable, cores: int | None) -> tuple[float | None, bool]:
    """Core-minutes over all sessions, each of which counts from zero; else a bound from the load of the machine."""
    if "core_seconds" in table and len(seconds := table["core_seconds"][np.isfinite(table["core_seconds"])]):
        steps = np.diff(seconds, prepend=0.0)
        return float(np.where(steps < 0, seconds, steps).sum()) / 60, False
    busy = table.get("host/busy", np.array([]))
    if cores and np.isfinite(busy).any():
        return float(np.nanmean(busy) * cores * table["seconds"][-1]) / 60, True
    return None, False


def _evaluation(logdir: Path, levels: list[str]) -> tuple[dict[str, Any] | None, tuple[Path, float] | None]:
    """The evaluation with the most frames, the last one of several; and the GIF and return of its median episode."""
    found = [(_read_json(path), path) for path in (logdir / "evaluation").glob("*.json")]
    usable = [(record, path) for record, path in found if isinstance(record, dict) and "mean" in record]
    if not usable:
        return None, None
    record, path = max(usable, key=lambda each: (each[0].get("frames", 0), each[0].get("date", "")))
    kept = ("frames", "episodes", "actions", "date", "commit")
    statistics = ("episodes", "mean", "median", "standard_error", "min", "max", "human_normalised")
    by_level = record.get("levels") or {levels[0]: record}
    evaluation = {name: record.get(name) for name in kept}
    evaluation["checkpoint"] = Path(str(record.get("checkpoint", ""))).stem
    evaluation["levels"] = {
        level: {name: values[name] for name in statistics if name in values} for level, values in by_level.items()
    }
    return evaluation, _median_gif(logdir, path)


def _median_gif(logdir: Path, evaluation: Path) -> tuple[Path, float] | None:
    gif = logdir / "videos" / evaluation.stem / "median.gif"
    if not gif.exists() or gif.stat().st_size > MAX_GIF_BYTES:
        return None
    with evaluation.with_suffix(".csv").open(newline="") as file:
        returns = sorted(float(row["return"]) for row in csv.DictReader(file))
    return gif, returns[len(returns) // 2]


def _tidy_command(command: str, name: str) -> str:
    """The command without folders of the machine it ran on."""
    words: list[str] = []
    for word in shlex.split(command):
        if word.startswith("--logdir="):
            word = f"--logdir=logdir/{name}"
        elif not words:
            word = f".venv/bin/{Path(word).name}" if Path(word).name.startswith("python") else Path(word).name
        else:
            word = re.sub(r"(?<![\w.])/(?:[^/\s]+/)*([^/\s]+)", r"\1", word)
        words.append(word)
    return shlex.join(words)


def _first_date(log: Path) -> str | None:
    try:
        with log.open(errors="replace") as file:
            match = re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", file.readline())
    except OSError:
        return None
    return match[0] if match else None


def _changed_flags(config: dict[str, Any]) -> dict[str, Any]:
    known = {name: flag.default for name, flag in flag_table().items()}
    changed = {name: value for name, value in config.items() if name not in known or value != known[name]}
    return {
        name: value for name, value in changed.items() if name not in PLACES and not str(value).startswith(("/", "~"))
    }


# -- the files that are kept


def save(folder: Path, record: RunRecord, table: RunTable) -> None:
    """Writes the record and some of the reports to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{record.name}.json").write_text(json.dumps(dataclasses.asdict(record), indent=1) + "\n")
    wanted = ["frames", "seconds", record.column, *(f"{LEVEL_COLUMN}{level}" for level in record.levels)]
    columns = [name for name in dict.fromkeys(wanted) if name in table]
    num_rows = len(table["frames"])
    chosen = np.unique(np.linspace(0, num_rows - 1, min(MAX_ROWS, num_rows)).round().astype(int))
    with (folder / f"{record.name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(float(table[name][i]), name) for name in columns] for i in chosen)


def _cell(value: float, name: str) -> str:
    if not np.isfinite(value):
        return ""
    return f"{value:.0f}" if name in ("frames", "seconds") else f"{value:.5g}"


def load(folder: Path) -> list[tuple[RunRecord, RunTable]]:
    """All kept runs by name, with their curves; ValueError that names a file that is damaged."""
    runs = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = RunRecord(**json.loads(path.read_text()))
        except (ValueError, TypeError) as problem:
            raise ValueError(f"{path}: is not the record of a run: {problem}") from None
        runs.append((record, read_run(path.with_suffix(".csv"))))
    return runs
