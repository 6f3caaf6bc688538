"""Pictures of runs: `python -m mlma.evaluation.plot RUN [RUN ...] --out=curve.png`, an entry point; `--report` writes a page of each run.

RUN is a logdir or a metrics.csv. Draws a return against frames and wall-clock, one line per run; runs with one label are seeds
of one line: their mean, in a band from the lowest to the highest. Not here: the page around the pictures (mlma/evaluation/html_report.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from mlma.evaluation.run_table import read_run

matplotlib.use("Agg")

MAX_POINTS = 600  # of a curve: more than a picture has columns are averaged
FIGURE_INCHES = (5.0, 2.9)  # of a picture in a report, inches; readable on a phone
FAULT_COLOR = "#d62728"


def downsample(x: Any, y: Any) -> tuple[Any, Any]:
    """Where both are numbers; averaged to at most POINTS."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= MAX_POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), MAX_POINTS)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def draw_band(axis: Any, curves: Sequence[tuple[Any, Any]], label: str) -> None:
    """One line of one or several curves (x, y): their mean where all have values, in a band from the lowest to the highest."""
    curves = [downsample(x, y) for x, y in curves]
    curves = [(x, y) for x, y in curves if len(x)]
    if len(curves) < 2:
        for x, y in curves:
            axis.plot(x, y, label=label)
        return
    x = np.linspace(max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves), MAX_POINTS)
    every = np.stack([np.interp(x, *curve) for curve in curves])
    (line,) = axis.plot(x, every.mean(axis=0), label=f"{label} ({len(curves)} runs)")
    axis.fill_between(x, every.min(axis=0), every.max(axis=0), color=line.get_color(), alpha=0.2, linewidth=0)


def draw_reference_lines(axis: Any, known: dict[str, float]) -> list[str]:
    """Draws published results as lines where they do not squeeze the curves; the others, in words. To be called last."""
    low, high = axis.get_ylim()
    near = {who: value for who, value in known.items() if low - 0.6 * (high - low) <= value <= high + 0.6 * (high - low)}
    low, high = min([low, *near.values()]), max([high, *near.values()])
    axis.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    ranked = sorted(near.items(), key=lambda each: each[1])
    apart, places = 0.06 * (high - low), [value for _, value in ranked]
    for i in range(1, len(places)):  # labels must not overlap, nor leave the picture
        places[i] = max(places[i], places[i - 1] + apart)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], high - (len(places) - 1 - i) * apart)
    for (who, value), place in zip(ranked, places, strict=True):
        axis.axhline(value, color="gray", linestyle=":", linewidth=1)
        axis.annotate(
            f" {who} {value:g}", (1.0, place), xycoords=("axes fraction", "data"), fontsize=7.5, color="#555555", va="center"
        )
    return [f"{who} {value:,g}" for who, value in known.items() if who not in near]


def plot_runs(
    runs: list[Path], out: Path, title: str, labels: list[str], goal: float | None, column: str, known: dict[str, float]
) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, constrained_layout=True)
    tables = [read_run(run) for run in runs]
    for table, run in zip(tables, runs, strict=True):
        if column not in table:
            raise ValueError(f"{run}: has no column {column}; allowed: {', '.join(table)}")
    for label in dict.fromkeys(labels):
        same = [table for table, its in zip(tables, labels, strict=True) if its == label]
        draw_band(axes[0], [(table["frames"] / 1e6, table[column]) for table in same], label)
        draw_band(axes[1], [(table["seconds"] / 60, table[column]) for table in same], label)
    axes[0].set_xlabel("million frames")
    axes[1].set_xlabel("minutes")
    axes[0].set_ylabel("mean return of the last 100 episodes" if column.startswith("return/") else column)
    for axis in axes:
        axis.grid(alpha=0.3)
        if goal is not None:
            axis.axhline(goal, color="gray", linestyle=":", label=f"goal {goal:g}")
    if known:
        axes[1].set_ylim(axes[0].get_ylim())
        draw_reference_lines(axes[1], known)
        axes[0].set_ylim(axes[1].get_ylim())
    if axes[0].get_legend_handles_labels()[1]:
        axes[0].legend()
    figure.suptitle(title)
    figure.savefig(out, dpi=80)
    plt.close(figure)


# -- pictures of a report: each returns SVG


def render_svg(paint: Callable[[Any], None], x: str, y: str, faults: Sequence[float] = ()) -> str:
    """`paint` draws on the axes; `faults` are the x of thin red lines."""
    with plt.rc_context({"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axis = plt.subplots(figsize=FIGURE_INCHES, constrained_layout=True)
        paint(axis)
        for fault in faults:
            axis.axvline(fault, color=FAULT_COLOR, linewidth=0.8, alpha=0.7)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=8, frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    return text.getvalue()


def line_plot(x: Any, *curves: tuple[str, Any]) -> Callable[[Any], None]:
    def paint(axis: Any) -> None:
        for label, y in curves:
            axis.plot(*downsample(x, y), label=label if len(curves) > 1 else None, linewidth=1.4)

    return paint


def stacked_shares(x: Any, *curves: tuple[str, Any]) -> Callable[[Any], None]:
    """Stacked, in percent; the legend above, since there is no empty place."""

    def paint(axis: Any) -> None:
        known = np.isfinite(x) & np.all([np.isfinite(y) for _, y in curves], axis=0)
        if not known.any():
            return
        thinned = [downsample(x[known], 100 * y[known])[1] for _, y in curves]
        axis.stackplot(downsample(x[known], x[known])[0], *thinned, labels=[label for label, _ in curves], alpha=0.85)
        axis.set_ylim(0, 100)
        handles, labels = axis.get_legend_handles_labels()
        axis.figure.legend(
            handles, labels, loc="outside upper center", ncols=min(4, len(labels)), fontsize=8, frameon=False, handlelength=1
        )
        for handle in handles:
            handle.set_label("_")

    return paint
