"""Command line: `python -m mlma.evaluation.case_studies [RUNS ...]` writes pages about runs.

RUNS are logdirs, or folders of logdirs. Their results are kept in the folder of the pages, so that a page can be made
again when the logdirs are gone; without RUNS, all pages are made from what is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mlma.evaluation.case_studies import records
from mlma.evaluation.case_studies.pages import write_pages
from mlma.evaluation.case_studies.records import RUNS_FOLDER, RunRecord

DEFAULT_OUT = Path("sandbox/case_studies")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the runs, writes the pages, and prints their paths."""
    parser = argparse.ArgumentParser(
        prog="python -m mlma.evaluation.case_studies", description="Write a page for each game, from the files of runs."
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, help="logdirs, or folders of logdirs; default: runs that are kept"
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"folder of the pages; default: {DEFAULT_OUT}")
    arguments = parser.parse_args(argv)
    try:
        for path in make_case_studies(arguments.runs, arguments.out):
            print(path)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def make_case_studies(folders: Sequence[Path], out: Path) -> list[Path]:
    """Adds the runs in these folders to those that are kept, and writes all pages; ValueError in one line."""
    logdirs = [logdir for folder in folders for logdir in records.find_logdirs(folder)]
    names = [logdir.resolve().name for logdir in logdirs]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(repeated))}: a name of several logdirs; rename one")
    kept = out / RUNS_FOLDER
    runs = {record.name: (record, table) for record, table in records.load(kept)}
    gifs: dict[str, Path] = {}
    for logdir in logdirs:
        try:
            record, table, gif = records.read_record(logdir)
        except ValueError as problem:  # it has not reported yet
            print(f"left out: {problem}", file=sys.stderr)
            continue
        runs[record.name] = record, table
        if gif:
            gifs[record.name] = gif
    if not runs:
        raise ValueError(f"{kept}: no runs are kept there, and none were given that have reports")
    shown = choose_gifs([record for record, _ in runs.values()])
    for name, (record, table) in runs.items():
        records.save(kept, record if name in shown else dataclasses.replace(record, gif=None), table)
        if name in shown and name in gifs:
            shutil.copyfile(gifs[name], out / f"{record.key}.gif")
    return write_pages(out, records.load(kept))  # as they are kept, so that the next time gives the same pages


def choose_gifs(of_runs: Sequence[RunRecord]) -> set[str]:
    """The runs whose GIF is shown: on each page, that with the highest mean in its evaluation."""
    best: dict[str, RunRecord] = {}
    for record in of_runs:
        if record.gif and record.evaluation:
            best[record.key] = max(best.get(record.key, record), record, key=_evaluation_mean)
    return {record.name for record in best.values()}


def _evaluation_mean(record: RunRecord) -> float:
    assert record.evaluation
    return float(record.evaluation["levels"][record.levels[0]]["mean"])


if __name__ == "__main__":
    main()
