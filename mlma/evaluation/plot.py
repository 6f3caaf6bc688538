"""Plot training curves: `python -m mlma.evaluation.plot RUN [RUN ...] --out=curve.png`.

RUN is a logdir or a metrics.csv. Draws a column against frames and wall-clock time, one line per run. Runs with the same
label are seeds of one line: their mean, with a band from the minimum to the maximum. `--report` also writes an HTML page for
each run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mlma.evaluation.charts import plot_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="logdirs, or metrics.csv files")
    parser.add_argument("--out", type=Path, default=Path("curve.png"), help="the picture (curve.png)")
    parser.add_argument("--title", default="")
    parser.add_argument(
        "--labels",
        help="names of the runs, with commas between; those with one name are drawn as one line; default: their paths",
    )
    parser.add_argument("--column", default="return/mean", help="what to draw: return/greedy of Ape-X and R2D2 (return/mean)")
    parser.add_argument("--goal", type=float, help="a return to draw as a line")
    parser.add_argument("--level", help="draw the returns that were published for this level as lines, such as atari_pong")
    parser.add_argument("--report", action="store_true", help="also write LOGDIR/report.html of each run")
    arguments = parser.parse_args()
    labels = arguments.labels.split(",") if arguments.labels else [str(run) for run in arguments.runs]
    if len(labels) != len(arguments.runs):
        parser.error(f"--labels={arguments.labels}: {len(labels)} names for {len(arguments.runs)} runs")
    try:
        known = _published_returns(arguments.level) if arguments.level else {}
        plot_runs(arguments.runs, arguments.out, arguments.title, labels, arguments.goal, arguments.column, known)
        print(arguments.out)
        if arguments.report:
            from mlma.evaluation.html_report import write_report

            for run in arguments.runs:
                print(write_report(run))
    except ValueError as problem:
        parser.error(str(problem))


def _published_returns(level: str) -> dict[str, float]:
    from mlma.envs.level_syntax import PUBLISHED_FOLDER
    from mlma.envs.reference_scores import published_returns

    if not (known := published_returns(level)):
        raise ValueError(
            f"--level={level}: no published returns are known of it; they are in {PUBLISHED_FOLDER / 'results.csv'}"
        )
    return known


if __name__ == "__main__":
    main()
