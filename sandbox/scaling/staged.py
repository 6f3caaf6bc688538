"""Runs with one deliberate bottleneck each: does the diagnosis name it, and is its number of actors right?

    python sandbox/scaling/staged.py actors learner link allreduce

The level sleeps instead of simulating, so actors cost hardly any CPU and a few cores can run many. `link` and
`allreduce` limit the network between namespaces (limited.py) and need root. With flags instead of cases, this script is
experiment.py with that level registered.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import limited  # noqa: E402

import experiment  # noqa: E402
from benchmarks.roofline import rows  # noqa: E402
from mlma.distributed.mpi_launcher import mpi_environment  # noqa: E402
from mlma.monitoring.bottleneck import average_columns, diagnose  # noqa: E402

TRAIN = [sys.executable, str(Path(__file__).resolve())]
FLAGS = [
    "--envs_per_actor=4", "--batch_size=4", "--unroll_length=20",
    "--learner_threads=1", "--report_every_seconds=1", "--total_environment_frames=1e9",
]  # fmt: skip
SMALL = ["--level_name=sleepy", "--num_stacked_frames=4", "--agent_name=SimpleConvNetAgent", "--sample_reuse=2"]
LARGE = ["--level_name=sleepy", "--num_stacked_frames=4", "--agent_name=ResNetLSTMAgent", "--sample_reuse=3"]
# About ten actors saturate this learner. Each needs a twentieth of a core, so the learner has a core to itself.
RARE = ["--level_name=sleepy_long", "--num_stacked_frames=1", "--agent_name=ResNetLSTMAgent", "--sample_reuse=1"]
SETTLED = 10.0  # seconds until all actors have sent their first trajectories


class Sleepy(gymnasium.Env[Any, Any]):
    """Images of noise; an episode has 50 steps."""

    observation_space: Any = gymnasium.spaces.Box(0, 255, (84, 84), np.uint8)
    action_space = gymnasium.spaces.Discrete(4)
    sleep = 0.005  # seconds per step

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self._noise, self._t = self.observation_space.sample(), 0
        return self._noise, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.sleep)
        self._t += 1
        return np.roll(self._noise, self._t), float(action == 1), self._t == 50, False, {}


class SleepyLong(Sleepy):
    sleep = 0.02


gymnasium.register("sleepy", Sleepy)
gymnasium.register("sleepy_long", SleepyLong)


class Report:
    """Averages a run's metrics over `seconds`, after `warm_up` seconds of training, with the diagnosis and frames/s."""

    def __init__(self, logdir: Path, alive: Callable[[], bool], warm_up: float, seconds: float) -> None:
        end = time.monotonic() + 240
        while not (rows := self._rows(logdir)) or rows[-1].get("actors/count", 0) < 1:
            if not alive() or time.monotonic() > end:
                raise RuntimeError(f"the run did not start: {logdir}")
            time.sleep(0.5)
        first = rows[-1]["seconds"] + warm_up
        while (rows := self._rows(logdir))[-1]["seconds"] < first + seconds:
            if not alive() or time.monotonic() > end:
                raise RuntimeError(f"the run ended: {logdir}")
            time.sleep(0.5)
        rows = [row for row in rows if row["seconds"] >= first]
        self.row = average_columns(rows)
        self.sentence = diagnose(self.row)
        self.rate = (rows[-1]["frames"] - rows[0]["frames"]) / (rows[-1]["seconds"] - rows[0]["seconds"])

    @staticmethod
    def _rows(logdir: Path) -> list[dict[str, float]]:
        table = logdir / "metrics.csv"
        return rows(table) if table.exists() else []


def report(logdir: Path, commands: list[list[str]], warm_up: float, seconds: float) -> Report:
    """Runs these processes, of which the first is the learner, and ends them; returns the report."""
    logdir.mkdir(parents=True, exist_ok=True)
    environment = mpi_environment() | {"MLMA_TOKEN": "staged, not secret"}
    with (logdir / "console").open("ab") as out:
        runs = [subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=out, env=environment) for words in commands]
    try:
        return Report(logdir, lambda: runs[0].poll() is None, warm_up, seconds)
    finally:
        for run in runs:
            run.send_signal(signal.SIGTERM)
        for run in runs:
            try:
                run.wait(30)
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()


def local(logdir: Path, actors: int, *flags: str, warm_up: float = 6, seconds: float = 12) -> Report:
    command = [*TRAIN, *FLAGS, *flags, f"--num_actors={actors}", f"--logdir={logdir}"]
    return report(logdir, [command], warm_up, seconds)


def behind_a_link(
    logdir: Path, actors: int, mbit: float, *flags: str, warm_up: float = 6, seconds: float = 12
) -> Report:
    """Runs the learner on one host and its actors on another."""
    hosts = limited.Hosts(2, mbit, delay_ms=0)
    inside = [["ip", "netns", "exec", name, *TRAIN, *FLAGS, *flags] for name in hosts.names]
    where = f"--learner_host={limited.NET}.1:8001"
    names = ",".join(f"h:{9000 + task}" for task in range(actors))
    learner = [*inside[0], where, "--task=0", f"--actor_hosts={names}", f"--logdir={logdir}"]
    acting = [[*inside[1], where, "--job_name=actor", f"--task={task}"] for task in range(actors)]
    try:
        hosts.make()
        return report(logdir, [learner, *acting], warm_up, seconds)
    finally:
        hosts.remove()


def far_learners(logdir: Path, mbit: float, *flags: str, warm_up: float = 6, seconds: float = 12) -> Report:
    """Runs two learners on two hosts, each with its actors on the same host."""
    words = [*TRAIN[1:], *FLAGS, *flags, "--num_actors=2", f"--logdir={logdir}"]
    command = [sys.executable, str(ROOT / "sandbox/scaling/limited.py"), "--hosts=2", f"--mbit={mbit}", "--", *words]
    return report(logdir, [command], warm_up, seconds)


def follow(folder: Path, begin: int) -> str:
    """Starts with too few actors, follows the diagnosis, and measures how many would have been enough."""
    few = local(folder / "few", begin, *RARE, warm_up=SETTLED)
    print(f"| {begin} actors | {few.rate:,.0f} | {few.sentence} |", flush=True)
    predicted = begin + int(few.sentence.partition("about ")[2].split()[0])
    followed = local(folder / "followed", predicted, *RARE, warm_up=SETTLED)
    print(f"| {predicted} actors, as diagnosed | {followed.rate:,.0f} | {followed.sentence} |", flush=True)
    many = math.ceil(1.5 * predicted)
    most = local(folder / "many", many, *RARE, warm_up=SETTLED)
    print(f"| {many} actors | {most.rate:,.0f} | {most.sentence} |", flush=True)
    needed = begin * most.rate / few.rate
    deviation = predicted / needed - 1
    return f"{needed:.1f} actors of this speed saturate the learner; predicted: {predicted} ({deviation:+.0%})"


def main() -> int:
    if any(word.startswith("--level_name=sleepy") for word in sys.argv):
        return experiment.main()
    cases: dict[str, Callable[[Path], str]] = {
        "actors": lambda folder: follow(folder, 2),
        "learner": lambda folder: local(folder, 3, *LARGE).sentence,
        "link": lambda folder: behind_a_link(folder, 2, 100, *SMALL).sentence,
        "allreduce": lambda folder: far_learners(folder, 100, *SMALL).sentence,
    }
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="+", choices=cases)
    # Raises SystemExit, so that everything is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for name in parser.parse_args().cases:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}: {cases[name](Path(folder) / name)}", flush=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
