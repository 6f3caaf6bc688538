"""Measures how a run scales with actors and with learners: `python -m benchmarks.scaling --actors=1,2,4
--learners=1,2`.

Each row is a real training run, on this machine or, with a CSV of workers, on the hosts of the CSV through the
frontend: it is started, warms up, is measured by its own reports, and is ended. Next to it are the rate of as many
processes that only simulate (on this machine) and the run's own diagnosis of its bottleneck. Not here: the parts of a
step (benchmarks/roofline.py).
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import ROOT, markdown_head, markdown_row
from benchmarks.roofline import action_repeats, all_cores_rate, training_rate
from mlma.core.config import Config, parse_or_exit

START_TIMEOUT_SECONDS = 300.0  # for a run on hosts to report
STATUS_SECONDS = 2.0  # between two calls of `status`
COLUMNS = ("table", "learners", "actors", "steps_per_second", "simulation", "sentence")


class Point(NamedTuple):
    """One row of a table."""

    table: str  # actors or learners
    learners: int
    actors: int  # per learner
    rate: float  # agent steps per second of the whole run
    simulation: float  # agent steps per second of as many processes that only simulate; 0 if not measured
    sentence: str  # the diagnosis


def scaling_points(actors: list[int], learners: list[int], actors_each: int) -> list[tuple[str, int, int]]:
    """(table, learners, actors per learner) of each row; the table of learners has `actors_each`."""
    return [("actors", 1, n) for n in actors] + [("learners", n, actors_each) for n in learners]


def measure_points(
    points: list[tuple[str, int, int]],
    train: Callable[[int, int], tuple[float, str]],
    simulate: Callable[[int], float] | None,
) -> list[Point]:
    """Measures each row and prints it. `train(learners, actors)` returns steps per second and the diagnosis,
    `simulate(processes)` steps per second."""
    measured = []
    for table, learners, actors in points:
        simulation = simulate(learners * actors) if simulate else 0.0
        rate, sentence = train(learners, actors)
        measured.append(Point(table, learners, actors, rate, simulation, sentence))
        print(f"{learners} x {actors}: {rate:,.0f} steps/s; {sentence}", flush=True)
    return measured


# -- on the hosts of a CSV


def select_workers(text: str, learners: int, actors: int) -> str:
    """A CSV with the first learners of this one and the first `actors` for each; ValueError if it has too few."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    workers = list(csv.DictReader(lines))
    columns = [*workers[0], *(["num_actors"] if "num_actors" not in workers[0] else [])]
    selected = [row for row in workers if row["job"] == "learner"][:learners]
    missing = learners * actors
    if len(selected) < learners:
        raise ValueError(f"--learners={learners}: the CSV has {len(selected)}; allowed: at most that many")
    for row in workers:
        if row["job"] == "actor" and missing:
            count = min(missing, int(row.get("num_actors") or 1))
            missing -= count
            selected.append(row | {"num_actors": str(count)})
    if missing:
        total = learners * actors
        raise ValueError(f"--actors={actors}: {total} are needed, the CSV has {total - missing}")
    rows = [",".join(_quoted(row.get(name) or "") for name in columns) for row in selected]
    return "\n".join([",".join(columns), *rows]) + "\n"


def _quoted(text: str) -> str:
    return f'"{text}"' if "," in text else text


def measure_on_hosts(
    workers_csv: Path, learners: int, actors: int, argv: list[str], seconds: float, warm_up: float
) -> tuple[float, str]:
    """(frames per second, diagnosis) of a run on these hosts, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        selected = Path(folder) / "workers.csv"
        selected.touch(mode=0o600)  # it may hold passwords
        selected.write_text(select_workers(workers_csv.read_text(), learners, actors))
        name = f"mlma-bench-{secrets.token_hex(6)}-{learners}-{actors}"  # nobody else can have prepared it
        logdir = f"--logdir={tempfile.gettempdir()}/{name}"
        try:
            _frontend("up", f"--workers_csv_path={selected}", logdir, "--report_every_seconds=2", *argv)
            end = time.monotonic() + START_TIMEOUT_SECONDS
            while not _status(logdir)[0]:
                if time.monotonic() > end:
                    raise RuntimeError(
                        "the run on the hosts did not start; try the same flags with run_experiment_mm_raw.py"
                    )
                time.sleep(STATUS_SECONDS)
            time.sleep(warm_up)
            rates: list[float] = []
            end = time.monotonic() + seconds
            while time.monotonic() < end or not rates:
                rate, sentence = _status(logdir)
                rates.append(rate)
                time.sleep(STATUS_SECONDS)
            return sum(rates) / len(rates), sentence
        finally:
            _frontend("down", logdir)


def _frontend(command: str, *flags: str) -> str:
    """The output of a command of the frontend; RuntimeError if it fails."""
    environment = os.environ | {"COLUMNS": "400"}
    words = [sys.executable, "run_experiment_mm_raw.py", command, *flags]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and command != "status":  # `status` exits with 1 if a worker has a problem
        raise RuntimeError(f"{command} ended with code {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _status(logdir: str) -> tuple[float, str]:
    """(frames per second, diagnosis) in the title of `status`; 0 and "" before there are any."""
    lines = _frontend("status", logdir).splitlines()
    rate = re.search(r"frames, ([\d,]+) frames/s", lines[0]) if lines else None
    sentence = next((line.strip() for line in lines[1:2] if "-bound: " in line or line.startswith("balanced: ")), "")
    return (float(rate[1].replace(",", "")) if rate else 0.0), sentence


# -- output


def _counts(points: list[Point]) -> tuple[list[int], str]:
    """The number that varies over the rows of a table, and its title."""
    if points[0].table == "actors":
        return [point.actors for point in points], "actors of one learner"
    plural = "s" if points[0].actors > 1 else ""
    return [point.learners for point in points], f"learners, {points[0].actors} actor{plural} each"


def format_rows(measured: list[Point]) -> str:
    """Markdown: one table for the actors and one for the learners."""
    lines: list[str] = []
    for table in dict.fromkeys(point.table for point in measured):
        points = [point for point in measured if point.table == table]
        counts, title = _counts(points)
        rate_of_one = points[0].rate / counts[0]
        lines.append(markdown_head((title, "steps/s", "efficiency", "pure simulation", "share of it", "diagnosis")))
        for count, point in zip(counts, points, strict=True):
            ceiling = ["", ""]
            if point.simulation:
                ceiling = [f"{point.simulation:,.0f}", f"{point.rate / point.simulation:.0%}"]
            efficiency = f"{point.rate / count / rate_of_one:.0%}"
            lines.append(markdown_row([count, f"{point.rate:,.0f}", efficiency, *ceiling, point.sentence]))
        lines.append("")
    return "\n".join(lines)


def save_rows(measured: list[Point], folder: Path) -> list[Path]:
    """Writes scale.csv, scale.md and scale.png; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "scale.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(measured)
    (folder / "scale.md").write_text(format_rows(measured))
    _plot(measured, folder / "scale.png")
    return [folder / f"scale.{suffix}" for suffix in ("csv", "md", "png")]


def _plot(measured: list[Point], path: Path) -> None:
    from mlma.evaluation.charts import plt

    tables = list(dict.fromkeys(point.table for point in measured))
    figure, axes = plt.subplots(1, len(tables), figsize=(5.5 * len(tables), 4), constrained_layout=True, squeeze=False)
    for axis, table in zip(axes[0], tables, strict=True):
        points: list[Any] = [point for point in measured if point.table == table]
        counts, title = _counts(points)
        axis.plot(counts, [point.rate for point in points], marker="o", label="training")
        axis.plot(counts, [n * points[0].rate / counts[0] for n in counts], linestyle=":", color="gray", label="linear")
        if all(point.simulation for point in points):
            axis.plot(counts, [point.simulation for point in points], marker=".", label="pure simulation")
        axis.set_xlabel(title)
        axis.set_xticks(counts)
        axis.set_ylabel("agent steps/s")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=80)
    plt.close(figure)


# -- command line


def parse_counts(flag: str, text: str) -> list[int]:
    """Numbers from 1 on, separated by commas; ValueError for anything else."""
    words = [word for word in text.split(",") if word]
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise ValueError(f"{flag}={text}: must be numbers from 1 on, separated by commas")
    return [int(word) for word in words]


def run(arguments: argparse.Namespace, config: Config) -> None:
    """Measures and saves; ValueError for flags that do not fit."""
    actors, learners = parse_counts("--actors", arguments.actors), parse_counts("--learners", arguments.learners)
    if not actors and not learners:
        raise ValueError("--actors, --learners: at least one of them must be given")
    argv, seconds, warm_up = arguments.flags, arguments.seconds, arguments.warm_up
    workers_csv = arguments.workers_csv_path

    def train_locally(num_learners: int, num_actors: int) -> tuple[float, str]:
        return training_rate([*argv, f"--num_learners={num_learners}", f"--num_actors={num_actors}"], seconds, warm_up)

    def train_on_hosts(num_learners: int, num_actors: int) -> tuple[float, str]:
        rate, sentence = measure_on_hosts(workers_csv, num_learners, num_actors, argv, seconds, warm_up)
        return rate / action_repeats(config), sentence

    def simulate(processes: int) -> float:
        return all_cores_rate("simulation", argv, seconds, warm_up, processes)

    points = scaling_points(actors, learners, arguments.actors_each)
    if workers_csv is None:
        measured = measure_points(points, train_locally, simulate)
    else:
        measured = measure_points(points, train_on_hosts, None)
    print(format_rows(measured))
    print(*save_rows(measured, arguments.out), sep="\n")


def main() -> None:
    """Measures both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="After --: flags of experiment.py.")
    parser.add_argument(
        "--actors", default="", help="measure one learner with these numbers of actors, such as 1,2,4,8"
    )
    parser.add_argument("--learners", default="", help="measure these numbers of learners, such as 1,2,4")
    parser.add_argument(
        "--actors_each", type=int, default=1, help="actors of each learner in the table of learners (1)"
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each measurement (15)")
    parser.add_argument("--warm_up", type=float, default=15.0, help="seconds before each measurement (15)")
    parser.add_argument("--workers_csv_path", type=Path, help="CSV of hosts to measure on; default: this machine")
    parser.add_argument(
        "--out", type=Path, default=Path("bench"), help="folder for the tables as CSV, Markdown and plot (bench)"
    )
    parser.add_argument("flags", nargs="*", help="flags of experiment.py, after --")
    arguments = parser.parse_args()
    config = parse_or_exit(arguments.flags)
    try:
        run(arguments, config)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
