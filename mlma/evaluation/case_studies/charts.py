"""The chart of a page: each run as a line over frames, and what is published behind them.

Not here: drawing what is published (mlma/evaluation/published_charts.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlma.envs.published_curves import NOTHING, PublishedLevel
from mlma.evaluation.case_studies.records import LEVEL_COLUMN, RunRecord
from mlma.evaluation.charts import downsample, plt
from mlma.evaluation.published_charts import draw_published
from mlma.evaluation.run_table import RunTable

WIDTH_INCHES, HEIGHT_INCHES, DPI = 7.2, 4.2, 120  # as wide as a printed page, so that text keeps its size
LABEL_POINTS = 8.0
SEED_LINES = ("-", (0, (6, 1.2)), (0, (2.5, 1)), (0, (6, 1, 1.5, 1)))  # of the seeds of a series, in turn


def draw_page_chart(runs: list[tuple[RunRecord, RunTable]], published: PublishedLevel, path: Path) -> None:
    """Draws runs of one page to a PNG; a panel for each level, if there are several."""
    levels = runs[0][0].levels
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        size = (WIDTH_INCHES, HEIGHT_INCHES if len(levels) == 1 else 2.9)
        figure, axes = plt.subplots(1, len(levels), figsize=size, squeeze=False, constrained_layout=True)
        for axis, level in zip(axes[0], levels, strict=True):
            _draw_runs(axis, runs, level)
            axis.grid(alpha=0.25)
            if len(levels) > 1:
                axis.set_title(level, fontsize=9)
        axes[0][0].set_ylabel("mean return of the last 100 episodes")
        figure.supxlabel("million frames" + (", of all levels together" if len(levels) > 1 else ""), fontsize=9)
        if published != NOTHING:
            draw_published(axes[0][0], published, max(record.frames for record, _ in runs), LABEL_POINTS)
        axes[0][0].legend(fontsize=8, frameon=False)
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
        plt.close(figure)


def _draw_runs(axis: Any, runs: list[tuple[RunRecord, RunTable]], level: str) -> None:
    """A color for each series, a line style for each of its seeds."""
    series = list(dict.fromkeys(record.series for record, _ in runs))
    drawn: dict[str, int] = {}
    for record, table in runs:
        number = drawn[record.series] = drawn.get(record.series, -1) + 1
        column = f"{LEVEL_COLUMN}{level}" if len(record.levels) > 1 else record.column
        if column not in table:
            continue
        axis.plot(
            *downsample(table["frames"] / 1e6, table[column]),
            color=f"C{series.index(record.series) % 10}",
            linestyle=SEED_LINES[number % len(SEED_LINES)],
            linewidth=1.5,
            label=f"{record.series}, seed {record.seed}",
            zorder=3,
        )
        # An evaluation is of whole games with raw rewards, as the curve is; its episodes are others.
        if record.evaluation and (result := record.evaluation["levels"].get(level)):
            axis.plot(
                [record.evaluation["frames"] / 1e6], [result["mean"]], "o", markersize=4.5, zorder=4,
                color=f"C{series.index(record.series) % 10}", markeredgecolor="black", markeredgewidth=0.6,
            )  # fmt: skip
