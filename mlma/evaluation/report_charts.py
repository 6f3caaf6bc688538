"""The charts of the report page: returns, throughput and phases, losses. Each function returns HTML, or "" without
data.

Not here: drawing with matplotlib (mlma/evaluation/charts.py), the page around the charts
(mlma/evaluation/html_report.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlma.envs.published_curves import Protocol, PublishedLevel
from mlma.evaluation.charts import downsample, line_plot, render_svg, stacked_shares
from mlma.evaluation.html_elements import figure, grid, note
from mlma.evaluation.html_elements import table as table_of
from mlma.evaluation.published_charts import (
    TABLE_HEAD,
    comparison_rows,
    describe_protocols,
    draw_published,
    left_out,
    million,
)
from mlma.evaluation.run_table import RunTable
from mlma.monitoring.bottleneck import LEARNER_PHASES
from mlma.monitoring.phase_timer import ACTOR_PHASES

RETURN_COLUMNS = (("mean", "return/mean"), ("mean at low epsilon", "return/greedy"), ("max", "return/max"))
PHASE_COLUMNS = (
    ("Learner", [f"learner/{name}" for name in LEARNER_PHASES]),
    ("Actors", [f"actors/{name}" for name in ACTOR_PHASES]),
    ("Receiver thread", [f"receiver/{name}" for name in ("wait", "full", "stack")]),
)
LOSS_PREFIXES = ("loss/", "policy/")
LOSS_COLUMNS = (
    *("gradient_norm", "learning_rate"),
    *("vtrace/rho_mean", "vtrace/rho_clipped", "replay/ratio", "value/mean"),
)
MIN_SHARE = 0.002  # a phase that never takes more is left out
FAULT_REMARK = "red: faults"


def fault_minutes(table: RunTable) -> list[float]:
    """The minutes of the reports in which a fault counter increased."""
    increased = np.zeros(len(table["frames"]), bool)
    for name, values in table.items():
        if name.startswith("faults/"):
            increased |= np.diff(np.nan_to_num(values), prepend=0.0) > 0
    return [float(minute) for minute in table["seconds"][increased] / 60]


def return_charts(
    table: RunTable, published: PublishedLevel, protocol: Protocol | None, evaluations: Sequence[dict[str, Any]]
) -> str:
    """Returns over frames, with evaluations and published curves, and over wall-clock time; the protocols below.

    `protocol` is that of the run.
    """
    curves = [(label, name) for label, name in RETURN_COLUMNS if name in table]
    if not any(np.isfinite(table[name]).any() for _, name in curves):
        return ""
    outside: list[str] = []
    num_frames = float(table["frames"][-1])

    def draw(axis: Any, x: Any, with_max: bool = True) -> None:
        for label, name in curves:
            if with_max or name != "return/max":
                axis.plot(*downsample(x, table[name]), label=label, linewidth=0.7 if name == "return/max" else 1.5)

    def draw_over_frames(axis: Any) -> None:
        draw(axis, table["frames"] / 1e6, with_max=not published.curves)  # which would squeeze what is compared
        if evaluations:
            columns = [[record[name] for record in evaluations] for name in ("frames", "mean", "standard_error")]
            style: dict[str, Any] = {"fmt": "o", "markersize": 4, "capsize": 2, "color": "black"}
            axis.errorbar([frames / 1e6 for frames in columns[0]], *columns[1:], label="evaluation", **style)
        draw_published(axis, published, num_frames)

    def draw_over_time(axis: Any) -> None:
        draw(axis, table["seconds"] / 60)
        draw_published(axis, published)
        outside[:] = left_out(axis, published)

    faults = fault_minutes(table)
    y_label = "return, last 100 episodes"
    figures = [
        _chart("Return over frames", render_svg(draw_over_frames, "million frames", y_label)),
        _chart("Return over wall-clock time", render_svg(draw_over_time, "minutes", y_label, faults), _remark(faults)),
    ]
    notes = [f"Outside the charts: {'; '.join(outside)}."] if outside else []
    return grid(figures) + "".join(map(note, notes)) + _comparison(published, protocol, num_frames)


def _comparison(published: PublishedLevel, protocol: Protocol | None, frames: float) -> str:
    """The published returns at these frames, and the protocols."""
    rows = comparison_rows(published, frames)
    protocols = describe_protocols([*published.curves, *published.results], protocol)
    gray = "Gray: published training returns, up to the frames of this run. " if published.curves else ""
    known = f"The table: curves at {million(frames)} frames, the last of this run; then final scores."
    return note(gray + known) + table_of(TABLE_HEAD, rows, "left") + "".join(map(note, protocols)) if rows else ""


def time_charts(table: RunTable) -> str:
    """Throughput, phases of learner and actors, policy lag, fill of the queue or replay; all over time."""
    minutes, faults = table["seconds"] / 60, fault_minutes(table)
    rate = line_plot(minutes, ("frames/s", table["frames_per_second"]))
    figures = [_chart("Throughput", render_svg(rate, "minutes", "frames/s", faults), _remark(faults))]
    for title, names in PHASE_COLUMNS:
        curves = [(name.partition("/")[2], np.clip(table[name], 0, 1)) for name in names if name in table]
        curves = [(label, y) for label, y in curves if np.isfinite(y).any() and np.nanmax(y) > MIN_SHARE]
        if curves:
            figures.append(_chart(title, render_svg(stacked_shares(minutes, *curves), "minutes", "% of the time")))
    if "lag/mean" in table:
        lag = line_plot(minutes, ("mean", table["lag/mean"]), ("max", table["lag/max"]))
        figures.append(_chart("Policy lag", render_svg(lag, "minutes", "learner steps"), "of trajectories in a sample"))
    if "queue/fill" in table:
        fill = line_plot(minutes, ("", 100 * table["queue/fill"]))
        figures.append(_chart("Queue or replay", render_svg(fill, "minutes", "% full")))
    return grid(figures)


def loss_charts(table: RunTable) -> str:
    """Losses, policy statistics, gradient norm, learning rate and off-policy statistics over frames."""
    names = [name for name in table if name.startswith(LOSS_PREFIXES)]
    names += [name for name in LOSS_COLUMNS if name in table]
    million_frames = table["frames"] / 1e6
    return grid(
        [
            _chart(name, render_svg(line_plot(million_frames, (name, table[name])), "million frames", ""))
            for name in names
            if np.isfinite(table[name]).any()
        ]
    )


def _chart(title: str, svg: str, remark: str = "") -> str:
    return figure(title, svg.encode(), "image/svg+xml", remark)


def _remark(faults: list[float]) -> str:
    return FAULT_REMARK if faults else ""
