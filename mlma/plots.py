"""Learning curves from metrics.csv: `python -m mlma.plots RUN [RUN ...] --out=curve.png`, an entry point.

RUN is a logdir or a CSV. Draws the mean return of the last 100 episodes against frames and wall-clock, one line per run.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def curve(run: Path, column: str = "return/mean") -> dict[str, list[float]]:
    """The columns that are drawn, of reports in which episodes had ended."""
    table = run / "metrics.csv" if run.is_dir() else run
    columns: dict[str, list[float]] = {"frames": [], "seconds": [], column: []}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            if row.get(column) and not math.isnan(float(row[column])):
                for name, values in columns.items():
                    values.append(float(row[name]))
    return columns


def draw(runs: list[Path], out: Path, title: str, labels: list[str], goal: float | None, column: str) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, constrained_layout=True)
    for run, label in zip(runs, labels, strict=True):
        columns = curve(run, column)
        axes[0].plot([f / 1e6 for f in columns["frames"]], columns[column], label=label)
        axes[1].plot([s / 60 for s in columns["seconds"]], columns[column], label=label)
    axes[0].set_xlabel("million frames")
    axes[1].set_xlabel("minutes")
    axes[0].set_ylabel("mean return of the last 100 episodes")
    for axis in axes:
        axis.grid(alpha=0.3)
        if goal is not None:
            axis.axhline(goal, color="gray", linestyle=":", label=f"goal {goal:g}")
    axes[0].legend()
    figure.suptitle(title)
    figure.savefig(out, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="logdirs, or metrics.csv files")
    parser.add_argument("--out", type=Path, default=Path("curve.png"), help="the picture (curve.png)")
    parser.add_argument("--title", default="")
    parser.add_argument("--labels", help="names of the runs, with commas between; default: their paths")
    parser.add_argument("--column", default="return/mean", help="what to draw: return/greedy of Ape-X and R2D2 (return/mean)")
    parser.add_argument("--goal", type=float, help="a return to draw as a line")
    arguments = parser.parse_args()
    labels = arguments.labels.split(",") if arguments.labels else [str(run) for run in arguments.runs]
    if len(labels) != len(arguments.runs):
        parser.error(f"--labels={arguments.labels}: {len(labels)} names for {len(arguments.runs)} runs")
    draw(arguments.runs, arguments.out, arguments.title, labels, arguments.goal, arguments.column)


if __name__ == "__main__":
    main()
