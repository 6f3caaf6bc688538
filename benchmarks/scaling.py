"""Two tables of how a run scales, actors per learner and learners: `python -m benchmarks.roofline --actors=1,2,4 --learners=1,2`.

Each row is a real training run, here or, with a CSV of workers, on the user's hosts through the frontend: it is started, left
alone to warm up, measured by its own reports, and ended. Beside it stand what the same number of processes makes that only
simulate (on this machine), and where the run says that its time goes. Not here: the parts of a step (benchmarks/roofline.py).
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
START = 300.0  # seconds for a run on hosts to report
COLUMNS = ("table", "learners", "actors", "steps_per_second", "simulation", "sentence")


class Point(NamedTuple):
    table: str
    learners: int
    actors: int  # of each learner
    rate: float  # agent steps per second of the whole run
    simulation: float  # the same of pure simulation with as many processes; 0 where it was not measured
    sentence: str


def scaling_points(actors: list[int], learners: list[int], each: int) -> list[tuple[str, int, int]]:
    """(table, learners, actors of each) to be measured; with `each` actors in the table of learners."""
    return [("actors", 1, n) for n in actors] + [("learners", n, each) for n in learners]


# -- on the user's hosts


def subset(text: str, learners: int, actors: int) -> str:
    """A CSV with the first learners of this one and the first `actors` of each learner; ValueError if it has too few."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    names = [*rows[0], *(["num_actors"] if "num_actors" not in rows[0] else [])]
    chosen = [row for row in rows if row["job"] == "learner"][:learners]
    missing = learners * actors
    if len(chosen) < learners:
        raise ValueError(f"--learners={learners}: the CSV has {len(chosen)}; allowed: at most that many")
    for row in rows:
        if row["job"] == "actor" and missing:
            took = min(missing, int(row.get("num_actors") or 1))
            missing -= took
            chosen.append(row | {"num_actors": str(took)})
    if missing:
        raise ValueError(f"--actors={actors}: {learners * actors} are needed, the CSV has {learners * actors - missing}")
    return "\n".join([",".join(names), *(",".join(_quoted(row.get(name) or "") for name in names) for row in chosen)]) + "\n"


def _quoted(text: str) -> str:
    return f'"{text}"' if "," in text else text


def measure_on_hosts(
    workers: Path, learners: int, actors: int, argv: list[str], seconds: float, warm_up: float
) -> tuple[float, str]:
    """(frames per second, sentence) of a run on these hosts, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "workers.csv"
        few.touch(mode=0o600)  # it may hold passwords
        few.write_text(subset(workers.read_text(), learners, actors))
        logdir = f"--logdir={tempfile.gettempdir()}/mlma-bench-{os.getpid()}-{learners}-{actors}"
        try:
            _frontend("up", f"--workers_csv_path={few}", logdir, "--report_every_seconds=2", *argv)
            end = time.monotonic() + START
            while not (found := _status(logdir))[0]:
                if time.monotonic() > end:
                    raise RuntimeError("the run on the hosts did not start; try the same flags with run_experiment_mm_raw.py")
                time.sleep(2)
            time.sleep(warm_up)
            rates: list[float] = []
            end = time.monotonic() + seconds
            while time.monotonic() < end or not rates:
                found = _status(logdir)
                rates.append(found[0])
                time.sleep(2)
            return sum(rates) / len(rates), found[1]
        finally:
            _frontend("down", logdir)


def _frontend(*words: str) -> str:
    command = [sys.executable, "run_experiment_mm_raw.py", *words]
    wide = os.environ | {"COLUMNS": "400"}
    done = subprocess.run(command, cwd=ROOT, env=wide, capture_output=True, text=True, check=False)
    if done.returncode and words[0] != "status":  # which says with it that a worker is not as it should be
        raise RuntimeError(f"{words[0]} ended with code {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _status(logdir: str) -> tuple[float, str]:
    """What the title of `status` says: frames per second, and where the time goes."""
    lines = _frontend("status", logdir).splitlines()
    rate = re.search(r"frames, ([\d,]+) frames/s", lines[0]) if lines else None
    where = next((line.strip() for line in lines[1:2] if "-bound: " in line or line.startswith("balanced: ")), "")
    return (float(rate[1].replace(",", "")) if rate else 0.0), where


# -- what came out


def measure_point(
    wanted: list[tuple[str, int, int]],
    train: Callable[[int, int], tuple[float, str]],
    simulate: Callable[[int], float] | None,
    say: Callable[[str], None],
) -> list[Point]:
    """`train(learners, actors)` gives steps per second and the sentence, `simulate(processes)` steps per second."""
    found = []
    for table, learners, actors in wanted:
        simulation = simulate(learners * actors) if simulate else 0.0
        rate, sentence = train(learners, actors)
        found.append(Point(table, learners, actors, rate, simulation, sentence))
        say(f"{learners} x {actors}: {rate:,.0f} steps/s; {sentence}")
    return found


def _counted(rows: list[Point]) -> tuple[list[int], str]:
    """What a table counts, and what that is."""
    if rows[0].table == "actors":
        return [point.actors for point in rows], "actors of one learner"
    each = f"{rows[0].actors} actor{'s' if rows[0].actors > 1 else ''} each"
    return [point.learners for point in rows], f"learners, {each}"


def format_rows(found: list[Point]) -> str:
    """Markdown: one table for each kind."""
    lines: list[str] = []
    for table in dict.fromkeys(point.table for point in found):
        rows = [point for point in found if point.table == table]
        numbers, count = _counted(rows)
        first = rows[0].rate / numbers[0]
        lines += [f"| {count} | steps/s | efficiency | pure simulation | share of it | where the time goes |"]
        lines += ["|---|---|---|---|---|---|"]
        for number, point in zip(numbers, rows, strict=True):
            ceiling = [f"{point.simulation:,.0f}", f"{point.rate / point.simulation:.0%}"] if point.simulation else ["", ""]
            cells = [str(number), f"{point.rate:,.0f}", f"{point.rate / number / first:.0%}", *ceiling, point.sentence]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def save_rows(found: list[Point], folder: Path) -> list[Path]:
    """scale.csv, scale.md and scale.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "scale.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(found)
    (folder / "scale.md").write_text(format_rows(found))
    _plot(found, folder / "scale.png")
    return [folder / f"scale.{kind}" for kind in ("csv", "md", "png")]


def _plot(found: list[Point], path: Path) -> None:
    from mlma.evaluation.charts import plt

    tables = list(dict.fromkeys(point.table for point in found))
    figure, axes = plt.subplots(1, len(tables), figsize=(5.5 * len(tables), 4), constrained_layout=True, squeeze=False)
    for axis, table in zip(axes[0], tables, strict=True):
        rows: list[Any] = [point for point in found if point.table == table]
        numbers, count = _counted(rows)
        axis.plot(numbers, [point.rate for point in rows], marker="o", label="training")
        axis.plot(numbers, [n * rows[0].rate / numbers[0] for n in numbers], linestyle=":", color="gray", label="linear")
        if all(point.simulation for point in rows):
            axis.plot(numbers, [point.simulation for point in rows], marker=".", label="pure simulation")
        axis.set_xlabel(count)
        axis.set_xticks(numbers)
        axis.set_ylabel("agent steps/s")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=80)
    plt.close(figure)
