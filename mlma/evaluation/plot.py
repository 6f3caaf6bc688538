"""Command line for training curves and report pages: `python -m mlma.evaluation.plot RUN [RUN ...]`.

RUN is a logdir or a metrics.csv. Draws a column against frames and wall-clock time, one line per run. Runs with the
same label are seeds of one line: their mean, with a band from minimum to maximum. `--report` writes an HTML page for
each run instead; together with `--out` both are written. Not here: the charts (mlma/evaluation/charts.py), the page
(mlma/evaluation/html_report.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mlma.envs.level_syntax import PUBLISHED_FOLDER
from mlma.envs.published_curves import NOTHING, PublishedLevel, published_level
from mlma.envs.reference_scores import table_key
from mlma.evaluation.charts import plot_runs
from mlma.evaluation.html_report import write_report
from mlma.evaluation.published_charts import describe_protocols

CHART_NAME = "curve.png"


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the chart and the pages that `argv` asks for, and prints their paths."""
    parser = argparse.ArgumentParser(
        prog="python -m mlma.evaluation.plot", description="Draw training curves, or write report pages."
    )
    parser.add_argument("runs", nargs="+", type=Path, help="logdirs, or metrics.csv files")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"file of the chart; default: {CHART_NAME} beside one run, or here for several; none with --report",
    )
    parser.add_argument("--title", default="", help="title of the chart")
    parser.add_argument(
        "--labels",
        help="names of the runs, separated by commas; runs with the same name share a line; default: their paths",
    )
    parser.add_argument(
        "--column",
        default="return/mean",
        help="column of metrics.csv to draw, such as return/greedy of Ape-X and R2D2; default: return/mean",
    )
    parser.add_argument("--goal", type=float, help="a return to draw as a line")
    parser.add_argument(
        "--level",
        help="level whose published curves and scores are drawn behind returns, such as atari_pong; default: that of "
        "the runs' config.json",
    )
    parser.add_argument("--no-published", action="store_true", help="draw nothing that is published")
    parser.add_argument("--report", action="store_true", help="write LOGDIR/report.html for each run")
    arguments = parser.parse_args(argv)
    labels = arguments.labels.split(",") if arguments.labels else [str(run) for run in arguments.runs]
    if len(labels) != len(arguments.runs):
        parser.error(f"--labels={arguments.labels}: {len(labels)} names for {len(arguments.runs)} runs")
    try:
        published = NOTHING if arguments.no_published else _published(arguments.level, arguments.runs, arguments.column)
        if arguments.out or not arguments.report:
            out, caption = (
                arguments.out or _default_out(arguments.runs),
                "\n".join(describe_protocols(published.curves)),
            )
            caption = f"Gray: published training returns. {caption}" if caption else ""
            plot_runs(
                arguments.runs, out, arguments.title, labels, arguments.goal, arguments.column, published, caption
            )
            print(out)
        if arguments.report:
            for run in arguments.runs:
                print(write_report(run))
    except ValueError as error:
        parser.error(str(error))


def _default_out(runs: Sequence[Path]) -> Path:
    """Beside a single run; in the working folder if there are several, which may lie anywhere."""
    if len(runs) > 1:
        return Path(CHART_NAME)
    return (runs[0] if runs[0].is_dir() else runs[0].parent) / CHART_NAME


def _published(level: str | None, runs: Sequence[Path], column: str) -> PublishedLevel:
    """What is published about the level, by default that of all runs; ValueError if a given level has nothing."""
    if level:
        if (published := published_level(level)) == NOTHING:
            raise ValueError(f"--level={level}: nothing is published about it in {PUBLISHED_FOLDER}")
        return published
    levels = {table_key(_level_of(run)) for run in runs}
    return published_level(levels.pop()) if len(levels) == 1 and column.startswith("return/") else NOTHING


def _level_of(run: Path) -> str:
    """The level in config.json of a logdir; "" if there is none."""
    try:
        return str(json.loads((run / "config.json").read_text())["level_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


if __name__ == "__main__":
    main()
