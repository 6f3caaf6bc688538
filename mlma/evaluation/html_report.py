"""A self-contained HTML page about one run, written by `python -m mlma.evaluation.plot LOGDIR --report`.

It shows a summary, curves, where the time goes, evaluations with videos, workers, faults and the configuration. It
reads only the logdir, during the run or after it; the page loads nothing and has no scripts. Not here: its charts
(mlma/evaluation/report_charts.py), its HTML elements (mlma/evaluation/html_elements.py).
"""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlma.core.config import flag_table
from mlma.envs.published_curves import protocol_of_run, published_level
from mlma.evaluation.html_elements import (
    Tile,
    escape,
    figure,
    format_number,
    format_percent,
    grid,
    note,
    page,
    section,
    table,
    tiles,
)
from mlma.evaluation.report_charts import fault_minutes, loss_charts, return_charts, time_charts
from mlma.evaluation.run_table import RunTable, read_run
from mlma.monitoring.bottleneck import RECENT_REPORTS, average_columns, diagnose
from mlma.monitoring.console import format_duration
from mlma.monitoring.phase_timer import ACTOR_PHASES
from mlma.utils.atomic_file import atomic_write
from mlma.utils.provenance import git_commit

MAX_EVENT_LINES = 200  # lines shown of events.log, the last ones
MAX_FAULT_MINUTES = 40
SILENT_SECONDS = 60  # after which an actor is marked
FAULT_PATTERN = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) ")  # lines of events.log that are highlighted


def write_report(logdir: Path) -> Path:
    """Writes LOGDIR/report.html and returns its path. ValueError if `logdir` is not the logdir of a run."""
    if not logdir.is_dir():
        raise ValueError(f"{logdir}: must be a logdir for --report")
    run = read_run(logdir)
    text = _page(logdir, run, _read_json(logdir / "config.json") or {})
    path = logdir / "report.html"
    with atomic_write(path) as file:
        file.write(text.encode())
    return path


def _page(logdir: Path, run: RunTable, config: dict[str, Any]) -> str:
    num_recent = min(RECENT_REPORTS, len(run["frames"]))
    recent = [{name: float(values[i]) for name, values in run.items()} for i in range(-num_recent, 0)]
    bottleneck = diagnose(average_columns(recent))
    title = f"{config.get('algorithm', '')} {config.get('level_name', logdir.name)}".strip()
    evaluations = _evaluations(logdir)
    workers = _read_json(logdir / "workers.json") or {}
    published = published_level(config.get("level_name", ""))
    commit = git_commit()
    written = f"written {time.strftime('%Y-%m-%d %H:%M')}{f' by commit {commit[:12]}' if commit else ''}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        note(f"{config.get('agent_name', '')} · seed {config.get('seed', '?')} · {logdir} · {written}"),
        tiles(_summary(run, config, evaluations, workers)),
        f"<p class='bottleneck'>{escape(bottleneck)}</p>" if bottleneck else "",
        section("Learning", return_charts(run, published, protocol_of_run(config), evaluations)),
        section("Where the time goes", time_charts(run)),
        section("Losses", loss_charts(run)),
        section("Evaluations", _evaluation_table(evaluations)),
        section("Videos", _videos(logdir)),
        section("Workers", _workers(workers)),
        section("Faults during the run", _faults(run, logdir)),
        section("Configuration", _configuration(config)),
    ]
    return page(title, parts)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def _last_value(run: RunTable, name: str) -> float:
    """The last finite value of a column, or NaN."""
    values = run.get(name, np.array([]))
    values = values[np.isfinite(values)]
    return float(values[-1]) if len(values) else math.nan


def _over_sessions(run: RunTable, name: str) -> float:
    """The sum of a counter over the sessions of a resumed run, each of which counts from zero; NaN without any."""
    started = np.zeros(len(run["frames"]), bool)
    for marker in ("core_seconds", "episodes"):
        if marker in run:
            started |= np.diff(np.nan_to_num(run[marker]), prepend=0.0) < 0
    values, session = run.get(name, np.full(len(started), math.nan)), np.cumsum(started)
    known = np.isfinite(values)
    counts = [values[known & (session == number)] for number in np.unique(session)]
    return float(sum(each[-1] for each in counts if len(each))) if known.any() else math.nan


def _summary(
    run: RunTable, config: dict[str, Any], evaluations: list[dict[str, Any]], workers: dict[str, Any]
) -> list[Tile]:
    frames, seconds = _last_value(run, "frames"), _last_value(run, "seconds")
    total = float(config.get("total_environment_frames") or 0)
    returns = run.get("return/mean", np.array([math.nan]))
    best = np.nanmax(returns) if np.isfinite(returns).any() else math.nan
    # The refusals by reason are parts of faults/messages_refused.
    names = [name for name in run if name.startswith("faults/") and not name.startswith("faults/refused_")]
    faults = sum(_over_sessions(run, name) for name in names)
    summary = [
        Tile(format_number(frames), f"frames of {format_number(total)}" if total else "frames"),
        Tile(format_duration(seconds), "training time, h:mm:ss"),
        Tile(format_number(frames / seconds if seconds else math.nan), "frames/s over the run"),
        Tile(format_number(_last_value(run, "return/mean")), "mean return, last 100 episodes"),
        Tile(format_number(best), "best mean return"),
        Tile(format_number(_over_sessions(run, "episodes")), "episodes"),
    ]
    if evaluations:
        last = evaluations[-1]
        mean = f"{last['mean']:.4g} ± {last['standard_error']:.2g}"
        summary.append(Tile(mean, f"evaluation, {last['episodes']} episodes"))
        if "human_normalised" in last:
            summary.append(Tile(f"{last['human_normalised']:.0f} %", "human-normalised (100 % is a human)"))
    if learners := workers.get("learners", []):
        num_actors = sum(len(learner["actors"]) for learner in learners)
        label = f"learner{'s' if len(learners) > 1 else ''} + actors"
        summary.append(Tile(f"{len(learners)} + {num_actors}", label))
    return [*summary, Tile(format_number(faults), "faults", bool(faults))]


def _evaluations(logdir: Path) -> list[dict[str, Any]]:
    """The records of all evaluations, by frames, then by date."""
    records = [_read_json(path) for path in (logdir / "evaluation").glob("*.json")]
    return sorted((r for r in records if r and "mean" in r), key=lambda record: (record["frames"], record["date"]))


def _evaluation_table(evaluations: list[dict[str, Any]]) -> str:
    head = [
        "frames",
        "episodes",
        "mean",
        "± standard error",
        "median",
        "min",
        "max",
        "human-normalised",
        "actions",
        "date",
    ]
    rows = []
    for record in evaluations:
        numbers = [f"{record[name]:.4g}" for name in ("mean", "standard_error", "median", "min", "max")]
        score = f"{record['human_normalised']:.1f} %" if "human_normalised" in record else "–"
        counts = [format_number(record["frames"]), str(record["episodes"])]
        rows.append([*counts, *numbers, score, record["actions"], record["date"][:16]])
    return table(head, rows)


def _videos(logdir: Path) -> str:
    """GIFs of the last evaluation with videos, and of the last recorded episode of training."""
    folders = sorted((logdir / "videos").glob("evaluation-*"))[-1:]
    videos = []
    for best in sorted(
        path for folder in folders for path in folder.rglob("best.gif")
    ):  # one folder per level, if several
        level = "" if best.parent in folders else f", {best.parent.name}"
        videos += [
            (f"{name.capitalize()} episode{level}", best.with_name(f"{name}.gif"))
            for name in ("best", "median", "worst")
        ]
    videos += [("Training episode", path) for path in sorted((logdir / "videos/training").glob("*.gif"))[-1:]]
    figures = [figure(title, path.read_bytes(), "image/gif", "last frames") for title, path in videos if path.exists()]
    return grid(figures) + (note(f"Complete episodes as MP4: {logdir / 'videos'}") if figures else "")


def _workers(workers: dict[str, Any]) -> str:
    rows, bad = [], []
    for learner in workers.get("learners", []):
        gauges = learner["gauges"]
        phases = {name: gauges.get(f"learner/{name}", math.nan) for name in ("wait", "gradient", "allreduce")}
        rows.append([f"learner {learner['rank']}", learner["host"], f"process {learner['pid']}", "", _shares(phases)])
        bad.append(False)
        for actor in sorted(learner["actors"], key=lambda summary: summary["task"]):
            shares = actor.get("shares", {})
            phases = {name: shares[name] for name in ACTOR_PHASES if name in shares}
            silent = actor["silent"] > SILENT_SECONDS
            status = f"silent for {actor['silent']:.0f} s" if silent else "active"
            rows.append([f"actor {actor['task']}", actor["host"], status, f"{actor['rate']:,.0f}", _shares(phases)])
            bad.append(silent)
    if not rows:
        return ""
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(workers["written"]))
    return table(["worker", "host", "", "steps/s", "time"], rows, "left", bad) + note(
        f"As of the last report, {written}"
    )


def _shares(phases: dict[str, float]) -> str:
    return ", ".join(f"{name} {format_percent(share)}" for name, share in phases.items())


def _faults(run: RunTable, logdir: Path) -> str:
    names = [name for name in run if name.startswith("faults/")]
    counts = {name.partition("/")[2].replace("_", " "): _over_sessions(run, name) for name in names}
    counted = "; ".join(f"{name}: {count:.0f}" for name, count in counts.items() if count) or "none"
    minutes = ", ".join(f"{minute:.1f}" for minute in fault_minutes(run)[:MAX_FAULT_MINUTES])
    text = f"<p>{escape(counted)}{f' (at minute {minutes})' if minutes else ''}</p>"
    path = logdir / "events.log"
    if not path.exists():
        return text
    lines = path.read_text(errors="replace").splitlines()
    shown = "\n".join(
        f"<b>{escape(line)}</b>" if FAULT_PATTERN.search(line) else escape(line) for line in lines[-MAX_EVENT_LINES:]
    )
    truncated = len(lines) > MAX_EVENT_LINES
    size = f"the last {MAX_EVENT_LINES} of {len(lines)} lines" if truncated else f"{len(lines)} lines"
    body = f"<div class='scroll'><pre class='events'>{shown}</pre></div>"
    return f"{text}<details open><summary>Log of the learners: {size}</summary>{body}</details>"


def _configuration(config: dict[str, Any]) -> str:
    """Flags with other values than their defaults; the others are folded."""
    if not config:
        return ""
    flags = flag_table()
    changed = [[name, str(value)] for name, value in config.items() if name in flags and value != flags[name].default]
    others = [[name, str(value)] for name, value in config.items() if [name, str(value)] not in changed]
    folded = table([], others, "left config")
    return (
        table([], changed, "left config")
        + f"<details><summary>{len(others)} flags at their defaults</summary>{folded}</details>"
    )
