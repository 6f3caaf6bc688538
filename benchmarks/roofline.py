"""Measures the throughput ceiling of this machine and how close training comes: `python -m benchmarks.roofline`.

In alternating rounds: pure simulation, inference alone, learning alone, and real training. Each of the first three
runs as one single-threaded process per core at the same time, so that its cost per step is that of a busy core. The
roofline is the rate at which a machine without any overhead would train:

    cores / (simulation + inference + learning)        [core-seconds per agent step]

Learning alone is the update from a sample in memory. Absolute numbers change with the machine's other load: compare
ratios within one run. Not here: tables over actors and learners (benchmarks/scaling.py).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, learner_and_sample, markdown_head, markdown_row, prepare
from mlma.core.config import Config, parse_or_exit
from mlma.core.presets.resolve import resolve
from mlma.monitoring.bottleneck import average_columns, diagnose
from mlma.utils.child_process import available_cores
from mlma.utils.tensorflow_setup import import_tensorflow, set_tensorflow_threads

PARTS = ("simulation", "inference", "learning")
AGENTS = ("ShallowConvNetAgent", "SimpleConvNetAgent", "ResNetLSTMAgent")
COLUMNS = ("network", *PARTS, "roofline", "training", "of roofline", "of pure simulation")
START_TIMEOUT_SECONDS = 120.0  # for a training run to make progress

# -- parts: each returns a call and the agent steps that the call stands for


def _simulation(config: Config) -> tuple[Callable[[], Any], int]:
    import numpy as np

    from mlma.envs.registry import env_spec

    config = resolve(config, env_spec(config.environment), available_cores())
    env = _make_actor_env(config, os.getpid())
    env.reset()
    rng = np.random.default_rng(os.getpid())
    actions = rng.integers(env.spec.num_actions, size=(1000, env.num_envs)).astype(np.int32)
    step_numbers = iter(range(10**9))
    return lambda: env.step(actions[next(step_numbers) % 1000]), env.num_envs


def _inference(config: Config) -> tuple[Callable[[], Any], int]:
    import numpy as np

    from mlma.acting.action_noise import NoiseGenerator
    from mlma.utils.tf_function import CachedGraph

    config, _, agent = prepare(config)
    env = _make_actor_env(config, 1)
    timestep, state = env.reset(), [agent.initial_state(env.num_envs)]
    act = CachedGraph(agent.act)
    noise_generator = NoiseGenerator(1, np.zeros(env.num_envs))

    def step() -> None:
        output, state[0] = act(timestep, state[0], noise_generator.draw())
        output.action.numpy()

    return step, env.num_envs


def _learning(config: Config) -> tuple[Callable[[], Any], float]:
    from mlma.distributed.allreduce import SingleProcess
    from mlma.envs.registry import env_spec

    config = resolve(config, env_spec(config.environment), available_cores())
    learner, sample = learner_and_sample(config, SingleProcess())
    steps = config.learner.batch_size * config.learner.unroll_length / config.learner.sample_reuse
    return lambda: learner.update(sample), steps


def _make_actor_env(config: Config, seed: int) -> Any:
    """The environments of an actor, as if it were the only one."""
    from mlma.envs.registry import env_spec, level_names, make_for_levels

    num_levels = len(level_names(config.environment.level_name))
    levels = [i % num_levels for i in range(config.actor.envs_per_actor)]
    return make_for_levels(config.environment, env_spec(config.environment), levels, seed)


PART_FUNCTIONS: dict[str, Callable[[Config], tuple[Callable[[], Any], float]]] = {
    "simulation": _simulation,
    "inference": _inference,
    "learning": _learning,
}

# -- rates


def part_rate(part: str, config: Config, seconds: float, start_at: float) -> float:
    """Agent steps per second of one part in this process, measured from `start_at` (a time of day) on."""
    import_tensorflow()
    set_tensorflow_threads(1)
    step, steps = PART_FUNCTIONS[part](config)
    for _ in range(3):
        step()
    if start_at < time.time():
        print("--warm_up is too short: the processes overlap less", file=sys.stderr)
    while time.time() < start_at:
        step()
    began, count = time.perf_counter(), 0.0
    while time.perf_counter() - began < seconds:
        step()
        count += steps
    return count / (time.perf_counter() - began)


def all_cores_rate(part: str, argv: list[str], seconds: float, warm_up: float, processes: int = 0) -> float:
    """Agent steps per second of `part` with this many processes, by default one per core."""
    command = [sys.executable, "-m", "benchmarks.roofline", f"--part={part}", f"--seconds={seconds}"]
    command += [f"--start_at={time.time() + warm_up}", "--", *argv]
    copies = [
        subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        for _ in range(processes or available_cores())
    ]
    return sum(float(copy.communicate()[0].strip().splitlines()[-1]) for copy in copies)


def training_rate(argv: list[str], seconds: float, warm_up: float) -> tuple[float, str]:
    """Agent steps per second of a real local training after `warm_up` seconds, and the diagnosis of its bottleneck."""
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, "experiment.py", *argv, f"--logdir={logdir}", "--report_every_seconds=1"]
        with open(Path(logdir) / "console", "w") as console:
            run = subprocess.Popen(command, cwd=ROOT, stdout=console, stderr=console)
        table = Path(logdir) / "metrics.csv"
        try:
            _wait_for(lambda: table.exists() and rows(table) and rows(table)[-1]["frames"] > 0, run)
            time.sleep(warm_up)
            begin = len(rows(table))
            time.sleep(seconds)
            measured = rows(table)[begin - 1 :]
        finally:
            run.send_signal(signal.SIGINT)
            run.wait(60)
        flags = json.loads((Path(logdir) / "config.json").read_text())
        first, last = measured[0], measured[-1]
        frames_per_second = (last["frames"] - first["frames"]) / (last["seconds"] - first["seconds"])
        return frames_per_second / action_repeats(Config.from_flags(**flags)), diagnose(average_columns(measured))


def action_repeats(config: Config) -> int:
    """Frames per agent step of the level."""
    from mlma.envs.registry import env_spec

    return env_spec(config.environment).action_repeats


def rows(table: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv."""
    with table.open(newline="") as file:
        return [{name: float(text or "nan") for name, text in row.items()} for row in csv.DictReader(file)]


def _wait_for(condition: Callable[[], Any], run: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > end or run.poll() is not None:
            raise RuntimeError("the training run did not start; try the same flags with experiment.py")
        time.sleep(0.2)


# -- output


def format_table(agent_names: list[str], results: dict[tuple[str, str], list[float]]) -> str:
    """Markdown. Costs are core-microseconds per agent step; shares are medians of the ratios of each round."""
    cores = available_cores()
    num_rounds = len(next(iter(results.values())))
    lines = [
        f"{cores} cores; agent steps/s; medians of {num_rounds} rounds; cost in core-us per step",
        "",
        markdown_head(COLUMNS),
    ]
    for name in agent_names:
        rates = [results[name, part] for part in (*PARTS, "training")]
        rounds = [dict(zip((*PARTS, "training"), each, strict=True)) for each in zip(*rates, strict=True)]
        median = {part: statistics.median(each[part] for each in rounds) for part in (*PARTS, "training")}
        roofs = [1 / sum(1 / each[part] for part in PARTS) for each in rounds]
        of_roof = statistics.median(each["training"] / roof for each, roof in zip(rounds, roofs, strict=True))
        of_simulation = statistics.median(each["training"] / each["simulation"] for each in rounds)
        cells = [name, *(f"{median[part]:,.0f} ({1e6 * cores / median[part]:,.0f} us)" for part in PARTS)]
        cells += [f"{statistics.median(roofs):,.0f}", f"{median['training']:,.0f}"]
        lines.append(markdown_row([*cells, f"{of_roof:.0%}", f"{of_simulation:.0%}"]))
    return "\n".join(lines)


def main() -> None:
    """Measures all parts of each network in rounds, or a single part in this process (--part)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="After --: flags of experiment.py.")
    parser.add_argument("--part", choices=PARTS, help="measure one part in this process and print steps per second")
    parser.add_argument("--start_at", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each measurement (15)")
    parser.add_argument("--warm_up", type=float, default=15.0, help="seconds before each measurement (15)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each; medians are printed (3)")
    parser.add_argument("--agents", default=",".join(AGENTS), help="networks to measure, separated by commas")
    parser.add_argument("flags", nargs="*", help="flags of experiment.py, after --")
    arguments = parser.parse_args()
    config = parse_or_exit(arguments.flags)
    seconds, warm_up = arguments.seconds, arguments.warm_up
    if arguments.part:
        print(part_rate(arguments.part, config, seconds, arguments.start_at))
        return
    agent_names = arguments.agents.split(",")
    results: dict[tuple[str, str], list[float]] = {}
    for number in range(arguments.rounds):
        for name in agent_names:
            argv = [*arguments.flags, f"--agent_name={name}"]
            for part in PARTS:
                results.setdefault((name, part), []).append(all_cores_rate(part, argv, seconds, warm_up))
            results.setdefault((name, "training"), []).append(training_rate(argv, seconds, warm_up)[0])
            latest = "  ".join(f"{part} {results[name, part][-1]:,.0f}" for part in (*PARTS, "training"))
            print(f"round {number + 1} {name}: {latest} steps/s", flush=True)
    print(format_table(agent_names, results))


if __name__ == "__main__":
    main()
