"""One page that shows a whole run, in one file that needs nothing else: summary, curves, where the time goes, evaluations and
their videos, workers, faults, configuration. Written by `python -m mlma.evaluation.plot LOGDIR --report`.

Made of what the run has left in its logdir, while it runs or after; nothing is loaded from elsewhere, there are no scripts.
Not here: the pictures (mlma/evaluation/plot.py).
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlma.core.config import flag_table
from mlma.envs.reference_scores import published_returns
from mlma.evaluation.charts import downsample, draw_reference_lines, line_plot, render_svg, stacked_shares
from mlma.evaluation.run_table import RunTable, read_run
from mlma.monitoring.bottleneck import LEARNER_PHASES, RECENT_REPORTS, average_columns, diagnose
from mlma.monitoring.console import format_duration
from mlma.monitoring.phase_timer import ACTOR_PHASES
from mlma.utils.atomic_file import atomic_write
from mlma.utils.provenance import git_commit

MAX_EVENT_LINES = 200  # lines of events.log that are shown, the last ones
FAULT_PATTERN = re.compile(
    r"ended with code|lost |could not|refused|no sample|too few|silent|never came|waits for learner|not finite|differ|failed"
)
OFF_POLICY = ("vtrace/rho_mean", "vtrace/rho_clipped", "replay/ratio", "value/mean")
STYLE = (Path(__file__).parent / "report.css").read_text()


def write_report(logdir: Path) -> Path:
    """LOGDIR/report.html; ValueError in one line if that is no logdir of a run."""
    if not logdir.is_dir():
        raise ValueError(f"{logdir}: must be a logdir for --report")
    table = read_run(logdir)
    config = _read_json(logdir / "config.json") or {}
    page = _page(logdir, table, config)
    path = logdir / "report.html"
    with atomic_write(path) as file:
        file.write(page.encode())
    return path


def _page(logdir: Path, table: RunTable, config: dict[str, Any]) -> str:
    rows = [
        {name: float(values[i]) for name, values in table.items()} for i in range(-min(RECENT_REPORTS, _num_reports(table)), 0)
    ]
    where = diagnose(average_columns(rows))
    title = f"{config.get('algorithm', '')} {config.get('level_name', logdir.name)}".strip()
    evaluations = _evaluations(logdir)
    workers = _read_json(logdir / "workers.json") or {}
    commit = git_commit()
    parts = [
        f"<h1>{_escape(title)}</h1>",
        f"<p class='dim'>{_escape(config.get('agent_name', ''))} · seed {config.get('seed', '?')} · {_escape(str(logdir))} · "
        f"written {time.strftime('%Y-%m-%d %H:%M')}{f' by commit {commit[:12]}' if commit else ''}</p>",
        _tiles(table, config, evaluations, workers),
        f"<p class='where'>{_escape(where)}</p>" if where else "",
        _section("Learning", _learning(table, config, evaluations)),
        _section("Where the time goes", _time(table)),
        _section("Losses", _losses(table)),
        _section("Evaluations", _evaluation_table(evaluations)),
        _section("Videos", _videos(logdir)),
        _section("Workers", _workers(workers)),
        _section("Faults during the run", _faults(table, logdir)),
        _section("Configuration", _configuration(config)),
    ]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'><link rel='icon' href='data:,'>"
        f"<title>{_escape(title)}</title><style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _escape(text: str) -> str:
    return html.escape(str(text))


def _num_reports(table: RunTable) -> int:
    return len(table["frames"])


def _last_value(table: RunTable, name: str) -> float:
    values = table.get(name, np.array([]))
    values = values[np.isfinite(values)]
    return float(values[-1]) if len(values) else math.nan


def _format_number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    for unit, name in ((1e9, " G"), (1e6, " M")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>\n{body}" if body else ""


def _tiles(table: RunTable, config: dict[str, Any], evaluations: list[dict[str, Any]], workers: dict[str, Any]) -> str:
    frames, seconds, total = (
        _last_value(table, "frames"),
        _last_value(table, "seconds"),
        float(config.get("total_environment_frames") or 0),
    )
    returns = table.get("return/mean", np.array([math.nan]))
    faults = sum(_last_value(table, name) for name in table if name.startswith("faults/"))
    tiles = [
        (_format_number(frames), f"frames of {_format_number(total)}" if total else "frames", ""),
        (format_duration(seconds), "hours, minutes, seconds", ""),
        (_format_number(frames / seconds if seconds else math.nan), "frames/s over the run", ""),
        (_format_number(_last_value(table, "return/mean")), "mean return of the last 100 games", ""),
        (_format_number(np.nanmax(returns) if np.isfinite(returns).any() else math.nan), "best of these means", ""),
        (_format_number(_last_value(table, "episodes")), "games ended", ""),
    ]
    if evaluations:
        last = evaluations[-1]
        tiles.append((f"{last['mean']:.4g} ± {last['standard_error']:.2g}", f"evaluation, {last['episodes']} games", ""))
        if "human_normalised" in last:
            tiles.append((f"{last['human_normalised']:.0f} %", "human-normalised (100 % is a human)", ""))
    learners = workers.get("learners", [])
    if learners:
        actors = sum(len(learner["actors"]) for learner in learners)
        tiles.append((f"{len(learners)} + {actors}", f"learner{'s' if len(learners) > 1 else ''} + actors", ""))
    tiles.append((_format_number(faults), "faults", "bad" if faults else ""))
    return (
        "<div class='tiles'>"
        + "".join(
            f"<div class='tile {kind}'><b>{_escape(value)}</b><span>{_escape(label)}</span></div>"
            for value, label, kind in tiles
        )
        + "</div>"
    )


# -- pictures


def _figure(title: str, picture: str, note: str = "") -> str:
    source = base64.b64encode(picture.encode()).decode()
    note = f" <span class='dim'>{_escape(note)}</span>" if note else ""
    return (
        f"<figure><figcaption>{_escape(title)}{note}</figcaption>"
        f"<img alt='{_escape(title)}' src='data:image/svg+xml;base64,{source}'></figure>"
    )


def _grid(figures: list[str]) -> str:
    return f"<div class='grid'>{''.join(figures)}</div>" if figures else ""


def _fault_times(table: RunTable) -> list[float]:
    """Minutes at which a count of faults had grown."""
    grown = np.zeros(_num_reports(table), bool)
    for name, values in table.items():
        if name.startswith("faults/"):
            grown |= np.diff(np.nan_to_num(values), prepend=0.0) > 0
    return [float(minute) for minute in table["seconds"][grown] / 60]


def _learning(table: RunTable, config: dict[str, Any], evaluations: list[dict[str, Any]]) -> str:
    known = published_returns(config.get("level_name", ""))
    curves = [
        (label, name)
        for label, name in (("mean", "return/mean"), ("with little exploration", "return/greedy"), ("best game", "return/max"))
        if name in table
    ]
    if not any(np.isfinite(table[name]).any() for _label, name in curves):
        return ""
    left_out: list[str] = []
    figures = []
    for title, x, unit, per in (
        ("Return over frames", "frames", "million frames", 1e6),
        ("Return over wall-clock", "seconds", "minutes", 60.0),
    ):

        def paint(axis: Any, x: str = x, per: float = per) -> None:
            for label, name in curves:
                axis.plot(*downsample(table[x] / per, table[name]), label=label, linewidth=1.5 if name != "return/max" else 0.7)
            if x == "frames" and evaluations:
                axis.errorbar(
                    [each["frames"] / per for each in evaluations],
                    [each["mean"] for each in evaluations],
                    [each["standard_error"] for each in evaluations],
                    fmt="o", markersize=4, capsize=2, color="black", label="evaluation",
                )  # fmt: skip
            left_out[:] = draw_reference_lines(axis, known)

        faults = _fault_times(table) if x == "seconds" else []
        picture = render_svg(paint, unit, "return of the last 100 games", faults)
        figures.append(_figure(title, picture, "red: faults" if faults else ""))
    note = f"<p class='dim'>Published, beyond the pictures: {_escape('; '.join(left_out))}.</p>" if left_out else ""
    return _grid(figures) + note


def _time(table: RunTable) -> str:
    minutes, figures = table["seconds"] / 60, []
    faults = _fault_times(table)
    rate = render_svg(line_plot(minutes, ("frames/s", table["frames_per_second"])), "minutes", "frames/s", faults)
    figures.append(_figure("Throughput", rate, "red: faults" if faults else ""))
    for title, names in (
        ("Learner", [f"learner/{name}" for name in LEARNER_PHASES]),
        ("Actors", [f"actors/{name}" for name in ACTOR_PHASES]),
        ("Receiving thread", [f"receiver/{name}" for name in ("wait", "full", "stack")]),
    ):
        curves = [(name.partition("/")[2], np.clip(table[name], 0, 1)) for name in names if name in table]
        curves = [(label, y) for label, y in curves if np.isfinite(y).any() and np.nanmax(y) > 0.002]
        if curves:
            figures.append(_figure(title, render_svg(stacked_shares(minutes, *curves), "minutes", "% of the time")))
    if "lag/mean" in table:
        curves = [("mean", table["lag/mean"]), ("largest", table["lag/max"])]
        figures.append(
            _figure("Policy lag", render_svg(line_plot(minutes, *curves), "minutes", "learner steps"), "when learned")
        )
    if "queue/fill" in table:
        figures.append(_figure("Memory", render_svg(line_plot(minutes, ("", 100 * table["queue/fill"])), "minutes", "% full")))
    return _grid(figures)


def _losses(table: RunTable) -> str:
    names = [name for name in table if name.startswith(("loss/", "policy/"))]
    names += [name for name in ("gradient_norm", "learning_rate", *OFF_POLICY) if name in table]
    million = table["frames"] / 1e6
    return _grid(
        [
            _figure(name, render_svg(line_plot(million, (name, table[name])), "million frames", ""))
            for name in names
            if np.isfinite(table[name]).any()
        ]
    )


# -- tables


def _table(head: list[str], rows: list[list[str]], kind: str = "", bad: list[bool] | None = None) -> str:
    if not rows:
        return ""
    flags_of = bad or [False] * len(rows)
    body = "".join(
        f"<tr{' class=bad' if wrong else ''}>{''.join(f'<td>{_escape(cell)}</td>' for cell in row)}</tr>"
        for row, wrong in zip(rows, flags_of, strict=True)
    )
    top = f"<tr>{''.join(f'<th>{_escape(cell)}</th>' for cell in head)}</tr>" if head else ""
    return f"<div class='scroll'><table class='{kind}'>{top}{body}</table></div>"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def _evaluations(logdir: Path) -> list[dict[str, Any]]:
    """By frames, then by date."""
    found = [record for path in (logdir / "evaluation").glob("*.json") if (record := _read_json(path)) and "mean" in record]
    return sorted(found, key=lambda record: (record["frames"], record["date"]))


def _evaluation_table(evaluations: list[dict[str, Any]]) -> str:
    head = ["frames", "games", "mean", "± standard error", "median", "min", "max", "human-normalised", "actions", "date"]
    rows = [
        [_format_number(each["frames"]), str(each["episodes"])]
        + [f"{each[name]:.4g}" for name in ("mean", "standard_error", "median", "min", "max")]
        + [f"{each['human_normalised']:.1f} %" if "human_normalised" in each else "–", each["actions"], each["date"][:16]]
        for each in evaluations
    ]
    return _table(head, rows)


def _videos(logdir: Path) -> str:
    """Of the last evaluation that was filmed, and of the last game of training."""
    last = sorted((logdir / "videos").glob("evaluation-*/best.gif"))[-1:]
    filmed = [(f"The {name} game", last[0].with_name(f"{name}.gif")) for name in ("best", "median", "worst") if last]
    filmed += [("In training", path) for path in sorted((logdir / "videos/training").glob("*.gif"))[-1:]]
    figures = []
    for title, path in filmed:
        if path.exists():
            source = base64.b64encode(path.read_bytes()).decode()
            image = f"<img alt='{title}' src='data:image/gif;base64,{source}'>"
            figures.append(f"<figure><figcaption>{title}, its end</figcaption>{image}</figure>")
    return _grid(figures) + (f"<p class='dim'>Whole games, as MP4: {_escape(str(logdir / 'videos'))}</p>" if figures else "")


def _workers(workers: dict[str, Any]) -> str:
    rows, bad = [], []
    for learner in workers.get("learners", []):
        gauges = learner["gauges"]
        took = [gauges.get(f"learner/{name}", math.nan) for name in ("wait", "gradient", "allreduce")]
        words = f"waits {_percent(took[0])}, gradients {_percent(took[1])}, allreduce {_percent(took[2])}"
        rows.append([f"learner {learner['rank']}", learner["host"], f"process {learner['pid']}", "", words])
        bad.append(False)
        for actor in sorted(learner["actors"], key=lambda each: each["task"]):
            share = actor.get("shares", {})
            words = ", ".join(f"{name} {_percent(share[name])}" for name in ACTOR_PHASES if name in share)
            silent = actor["silent"] > 60
            heard = f"silent for {actor['silent']:.0f} s" if silent else "heard"
            rows.append([f"actor {actor['task']}", actor["host"], heard, f"{actor['rate']:,.0f}", words])
            bad.append(silent)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(workers["written"])) if workers else ""
    note = f"<p class='dim'>As of the last report, {when}</p>" if rows else ""
    return _table(["worker", "host", "", "steps/s", "its time"], rows, "left", bad) + note


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"


def _faults(table: RunTable, logdir: Path) -> str:
    counts = [
        (name.partition("/")[2].replace("_", " "), _last_value(table, name)) for name in table if name.startswith("faults/")
    ]
    said = "; ".join(f"{name}: {count:.0f}" for name, count in counts if count) or "none was counted"
    times = ", ".join(f"{minute:.1f}" for minute in _fault_times(table)[:40])
    text = f"<p>{_escape(said)}{f' (at minute {times})' if times else ''}</p>"
    path = logdir / "events.log"
    if not path.exists():
        return text
    lines = path.read_text(errors="replace").splitlines()
    shown = "\n".join(
        f"<b>{_escape(line)}</b>" if FAULT_PATTERN.search(line) else _escape(line) for line in lines[-MAX_EVENT_LINES:]
    )
    more = f"the last {MAX_EVENT_LINES} of {len(lines)} lines" if len(lines) > MAX_EVENT_LINES else f"{len(lines)} lines"
    body = f"<div class='scroll'><pre class='events'>{shown}</pre></div>"
    return f"{text}<details open><summary>What the learners said: {more}</summary>{body}</details>"


def _configuration(config: dict[str, Any]) -> str:
    known = flag_table()
    own = [[name, str(value)] for name, value in config.items() if name in known and value != known[name].default]
    rest = [[name, str(value)] for name, value in config.items() if [name, str(value)] not in own]
    if not config:
        return ""
    return (
        _table([], own, "left config")
        + f"<details><summary>{len(rest)} flags at their defaults</summary>{_table([], rest, 'left config')}</details>"
    )
