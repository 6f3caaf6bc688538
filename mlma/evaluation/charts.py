"""Charts of runs with matplotlib: training curves as PNG, and the charts of the report page as SVG.

Not here: the command line (mlma/evaluation/plot.py), which charts a report has (mlma/evaluation/report_charts.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from mlma.envs.published_curves import NOTHING, PublishedLevel
from mlma.evaluation.published_charts import draw_published
from mlma.evaluation.run_table import read_run

matplotlib.use("Agg")

MAX_POINTS = 600  # of a curve; longer curves are averaged, since a chart has no more columns of pixels
REPORT_CHART_INCHES = (5.0, 2.9)  # readable on a phone
FAULT_COLOR = "#d62728"  # red


def downsample(x: Any, y: Any) -> tuple[Any, Any]:
    """The points where both are finite, averaged to at most MAX_POINTS."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= MAX_POINTS:
        return x, y
    chunks = np.array_split(np.arange(len(x)), MAX_POINTS)
    return np.array([x[chunk].mean() for chunk in chunks]), np.array([y[chunk].mean() for chunk in chunks])


def draw_band(axis: Any, curves: Sequence[tuple[Any, Any]], label: str) -> None:
    """Draws the mean of curves (x, y) over the range of x that all cover, with a band from minimum to maximum."""
    curves = [downsample(x, y) for x, y in curves]
    curves = [(x, y) for x, y in curves if len(x)]
    if len(curves) < 2:
        for x, y in curves:
            axis.plot(x, y, label=label)
        return
    x = np.linspace(max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves), MAX_POINTS)
    values = np.stack([np.interp(x, *curve) for curve in curves])  # [curves, points]
    (line,) = axis.plot(x, values.mean(axis=0), label=f"{label} ({len(curves)} runs)")
    axis.fill_between(x, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2, linewidth=0)


def plot_runs(
    runs: list[Path],
    out: Path,
    title: str,
    labels: list[str],
    goal: float | None,
    column: str,
    published: PublishedLevel,
    caption: str = "",
) -> None:
    """Draws a column of metrics.csv against frames and wall-clock time. Runs with the same label share a line.

    `published` is drawn behind the runs; the caption names its protocols.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5 if caption else 4), sharey=True, constrained_layout=True)
    tables = [read_run(run) for run in runs]
    for table, run in zip(tables, runs, strict=True):
        if column not in table:
            raise ValueError(f"--column={column}: {run} has no such column; allowed: {', '.join(table)}")
    for label in dict.fromkeys(labels):
        seeds = [table for table, other in zip(tables, labels, strict=True) if other == label]
        draw_band(axes[0], [(table["frames"] / 1e6, table[column]) for table in seeds], label)
        draw_band(axes[1], [(table["seconds"] / 60, table[column]) for table in seeds], label)
    axes[0].set_xlabel("million frames")
    axes[1].set_xlabel("minutes")
    axes[0].set_ylabel("mean return of the last 100 episodes" if column == "return/mean" else column)
    for axis in axes:
        axis.grid(alpha=0.3)
        if goal is not None:
            axis.axhline(goal, color="gray", linestyle=":", label=f"goal {goal:g}")
    figure.suptitle(title)
    if caption:
        figure.supxlabel(caption, fontsize=9, color="#555555")
    if published != NOTHING:
        draw_published(axes[1], published._replace(curves=[], results=[]))
        draw_published(axes[0], published._replace(references={}), max(float(table["frames"][-1]) for table in tables))
    if axes[0].get_legend_handles_labels()[1]:
        axes[0].legend()
    figure.savefig(out, dpi=100)
    plt.close(figure)


# -- charts of a report


def render_svg(draw: Callable[[Any], None], x_label: str, y_label: str, faults: Sequence[float] = ()) -> str:
    """An SVG of what `draw` draws on the axes; `faults` are the x positions of thin red lines."""
    with plt.rc_context({"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axis = plt.subplots(figsize=REPORT_CHART_INCHES, constrained_layout=True)
        draw(axis)
        for fault in faults:
            axis.axvline(fault, color=FAULT_COLOR, linewidth=0.8, alpha=0.7)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=8, frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    return text.getvalue()


def line_plot(x: Any, *curves: tuple[str, Any]) -> Callable[[Any], None]:
    """Draws lines (label, y), for `render_svg`."""

    def draw(axis: Any) -> None:
        for label, y in curves:
            axis.plot(*downsample(x, y), label=label if len(curves) > 1 else None, linewidth=1.4)

    return draw


def stacked_shares(x: Any, *curves: tuple[str, Any]) -> Callable[[Any], None]:
    """Draws shares (label, y) stacked, in percent, for `render_svg`; the legend is above the chart, which is full."""

    def draw(axis: Any) -> None:
        finite = np.isfinite(x) & np.all([np.isfinite(y) for _, y in curves], axis=0)
        if not finite.any():
            return
        percents = [downsample(x[finite], 100 * y[finite])[1] for _, y in curves]
        axis.stackplot(
            downsample(x[finite], x[finite])[0], *percents, labels=[label for label, _ in curves], alpha=0.85
        )
        axis.set_ylim(0, 100)
        handles, labels = axis.get_legend_handles_labels()
        axis.figure.legend(
            handles,
            labels,
            loc="outside upper center",
            ncols=min(4, len(labels)),
            fontsize=8,
            frameon=False,
            handlelength=1,
        )
        for handle in handles:
            handle.set_label("_")

    return draw
