"""Where the ceiling is and how close training comes: `python -m benchmarks.roofline`, an entry point like experiment.py.

Measures, in alternating rounds on this machine, pure simulation, inference alone, learning alone, and real training. Each of
the first three runs as one single-threaded process per core at the same time, so that its cost per step is that of a busy
core. The roofline is what a machine without any overhead would train at:

    cores / (simulation + inference + learning)        [core-seconds per agent step]

Learning alone is the train step on a sample that lies in memory. Numbers of different hours are not comparable: compare
ratios of one run.
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

from mlma.core.config import Config, EnvironmentConfig, parse_or_exit
from mlma.core.presets.resolve import resolve
from mlma.monitoring.bottleneck import average_columns, diagnose
from mlma.utils.child_process import available_cores
from mlma.utils.tensorflow_setup import import_tensorflow

PARTS = ("simulation", "inference", "learning")
AGENTS = ("ShallowConvNetAgent", "SimpleConvNetAgent", "ResNetLSTMAgent")
ROOT = Path(__file__).resolve().parent.parent


def part_rate(part: str, config: Config, seconds: float, start_at: float) -> float:
    """Agent steps per second of one part in this process, measured from `start_at` (a time of day) on."""
    import_tensorflow()
    from mlma.utils.tensorflow_setup import set_tensorflow_threads

    set_tensorflow_threads(1)
    step, steps = {"simulation": _simulation, "inference": _inference, "learning": _learning}[part](config)
    for _ in range(3):
        step()
    if start_at < time.time():
        print("warming up took longer than planned; the copies overlap less", file=sys.stderr)
    while time.time() < start_at:
        step()
    begun, count = time.perf_counter(), 0.0
    while time.perf_counter() - begun < seconds:
        step()
        count += steps
    return count / (time.perf_counter() - begun)


def prepare(config: Config) -> tuple[Any, Any, Any]:
    """(resolved config, spec, agent)."""
    from agents import make_agent
    from mlma.core.flat_weights import build_variables
    from mlma.envs.registry import env_spec

    spec = env_spec(config.environment)
    config = resolve(config, spec, available_cores())
    agent = make_agent(config, spec)
    build_variables(agent, spec)
    return config, spec, agent


def learner_and_sample(config: Config, learners: Any) -> tuple[Any, Any]:
    """A learner as a run has it, and a sample of zeros."""
    from mlma.core.record_layout import trajectory_layout
    from mlma.learning.learner import Learner
    from mlma.replay.trajectory_queue import TrajectoryQueue

    config, spec, agent = prepare(config)
    layout = trajectory_layout(spec, agent, config.learner.unroll_length)
    queue = TrajectoryQueue(layout, config.learner.batch_size, config.learner.batch_size)
    queue.insert(layout.empty(config.learner.batch_size))
    sample = queue.sample(1.0)
    assert sample is not None
    return Learner(config, agent, spec.action_repeats, learners), sample


def _simulation(config: Config) -> tuple[Callable[[], Any], int]:
    import numpy as np

    from mlma.envs.registry import env_spec

    config = resolve(config, env_spec(config.environment), available_cores())
    env = _dealt(config, os.getpid())
    env.reset()
    rng = np.random.default_rng(os.getpid())
    actions = rng.integers(env.spec.num_actions, size=(1000, env.num_envs)).astype(np.int32)
    turn = iter(range(10**9))
    return lambda: env.step(actions[next(turn) % 1000]), env.num_envs


def _dealt(config: Config, seed: int) -> Any:
    """The environments of an actor, as if it were alone."""
    from mlma.envs.registry import env_spec, level_names, make_for_levels

    count = len(level_names(config.environment.level_name))
    return make_for_levels(
        config.environment, env_spec(config.environment), [i % count for i in range(config.actor.envs_per_actor)], seed
    )


def _inference(config: Config) -> tuple[Callable[[], Any], int]:
    import numpy as np

    from mlma.acting.action_noise import NoiseGenerator
    from mlma.utils.tf_function import CachedGraph

    config, _, agent = prepare(config)
    env = _dealt(config, 1)
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
    trainer, sample = learner_and_sample(config, SingleProcess())
    return lambda: trainer.train(sample), config.learner.batch_size * config.learner.unroll_length / config.learner.sample_reuse


def all_cores_rate(part: str, argv: list[str], seconds: float, warm_up: float, processes: int = 0) -> float:
    """Agent steps per second of `part` with one copy per core, or so many."""
    words = [
        sys.executable,
        "-m",
        "benchmarks.roofline",
        f"--part={part}",
        f"--seconds={seconds}",
        f"--start_at={time.time() + warm_up}",
    ]
    copies = [
        subprocess.Popen([*words, "--", *argv], stdout=subprocess.PIPE, cwd=ROOT, text=True)
        for _ in range(processes or available_cores())
    ]
    return sum(float(copy.communicate()[0].strip().splitlines()[-1]) for copy in copies)


def training_rate(argv: list[str], seconds: float, warm_up: float) -> tuple[float, str]:
    """Agent steps per second of a real local training, after `warm_up` seconds of it, and where it says that its time goes."""
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, "experiment.py", *argv, f"--logdir={logdir}", "--report_every_seconds=1"]
        with open(Path(logdir) / "console", "w") as console:
            run = subprocess.Popen(command, cwd=ROOT, stdout=console, stderr=console)
        table = Path(logdir) / "metrics.csv"
        try:
            _wait_for(lambda: table.exists() and rows(table) and rows(table)[-1]["frames"] > 0, 120, run)
            time.sleep(warm_up)
            begin = len(rows(table))
            time.sleep(seconds)
            late = rows(table)[begin - 1 :]
        finally:
            run.send_signal(signal.SIGINT)
            run.wait(60)
        config = json.loads((Path(logdir) / "config.json").read_text())
        first, last = late[0], late[-1]
        frames = (last["frames"] - first["frames"]) / (last["seconds"] - first["seconds"])
        return frames / repeats(config), diagnose(average_columns(late))


def repeats(config: dict[str, Any]) -> int:
    """Frames of an agent step, which only Atari has several of."""
    from mlma.envs.registry import env_spec

    return env_spec(EnvironmentConfig(**config)).action_repeats


def rows(table: Path) -> list[dict[str, float]]:
    """Of a metrics.csv."""
    with table.open(newline="") as file:
        return [{name: float(text or "nan") for name, text in row.items()} for row in csv.DictReader(file)]


def _wait_for(condition: Callable[[], Any], seconds: float, run: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end or run.poll() is not None:
            raise RuntimeError("the training run did not start; try the same flags with experiment.py")
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="After --: flags of experiment.py.")
    parser.add_argument("--part", choices=PARTS, help="measure one part in this process and print steps per second")
    parser.add_argument("--start_at", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each measurement (15)")
    parser.add_argument("--warm_up", type=float, default=15.0, help="seconds before each measurement (15)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; medians are printed (3)")
    parser.add_argument("--agents", default=",".join(AGENTS), help="networks to measure, with commas between")
    parser.add_argument("--actors", help="table of one learner with so many actors, such as 1,2,4,8")
    parser.add_argument("--learners", help="table of so many learners, such as 1,2,4")
    parser.add_argument("--actors_each", type=int, default=1, help="actors of each learner in the table of learners (1)")
    parser.add_argument("--workers_csv_path", type=Path, help="make these tables on the hosts of this CSV; default: here")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder for these tables as CSV, text and plot (bench)")
    parser.add_argument("flags", nargs="*", help="flags of experiment.py, after --")
    arguments = parser.parse_args()
    if arguments.part:
        print(part_rate(arguments.part, parse_or_exit(arguments.flags), arguments.seconds, arguments.start_at))
        return
    config = parse_or_exit(arguments.flags)
    if arguments.actors or arguments.learners:
        try:
            scale(arguments, config)
        except (ValueError, OSError) as problem:
            parser.error(str(problem))
        return
    agent_names = arguments.agents.split(",")
    results: dict[tuple[str, str], list[float]] = {}
    for turn in range(arguments.rounds):
        for name in agent_names:
            argv = [*arguments.flags, f"--agent_name={name}"]
            for part in PARTS:
                rate = all_cores_rate(part, argv, arguments.seconds, arguments.warm_up)
                results.setdefault((name, part), []).append(rate)
            results.setdefault((name, "training"), []).append(training_rate(argv, arguments.seconds, arguments.warm_up)[0])
            last = "  ".join(f"{what} {results[name, what][-1]:,.0f}" for what in (*PARTS, "training"))
            print(f"round {turn + 1} {name}: {last} steps/s", flush=True)
    print(table(agent_names, results))


def scale(arguments: argparse.Namespace, config: Config) -> None:
    """The tables of actors and learners: benchmarks.scaling."""
    from benchmarks.scaling import format_rows, measure_on_hosts, measure_point, save_rows, scaling_points

    counts = {}
    for name in ("actors", "learners"):
        words = (getattr(arguments, name) or "").split(",")
        if not all(word.isdigit() and int(word) > 0 for word in words if word):
            raise ValueError(f"--{name}={getattr(arguments, name)}: must be numbers from 1 on, with commas between")
        counts[name] = [int(word) for word in words if word]
    wanted = scaling_points(counts["actors"], counts["learners"], arguments.actors_each)
    argv, seconds, warm_up = arguments.flags, arguments.seconds, arguments.warm_up

    def here(learners: int, actors: int) -> tuple[float, str]:
        return training_rate([*argv, f"--num_learners={learners}", f"--num_actors={actors}"], seconds, warm_up)

    def on_hosts(learners: int, actors: int) -> tuple[float, str]:
        rate, sentence = measure_on_hosts(arguments.workers_csv_path, learners, actors, argv, seconds, warm_up)
        return rate / repeats(config.flags()), sentence

    def simulation(processes: int) -> float:
        return all_cores_rate("simulation", argv, seconds, warm_up, processes)

    away = arguments.workers_csv_path is not None
    found = measure_point(
        wanted, on_hosts if away else here, None if away else simulation, lambda line: print(line, flush=True)
    )
    print(format_rows(found))
    print(*save_rows(found, arguments.out), sep="\n")


def table(agent_names: list[str], results: dict[tuple[str, str], list[float]]) -> str:
    """Markdown; costs in core-microseconds per agent step, shares as medians over the rounds of each round's own ratio."""
    cores = available_cores()
    lines = [
        f"{cores} cores; agent steps/s; medians of {len(next(iter(results.values())))} rounds; cost in core-us per step",
        "",
        "| network | simulation | inference | learning | roofline | training | of roofline | of pure simulation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in agent_names:
        rates = [results[name, what] for what in (*PARTS, "training")]
        rounds = [dict(zip((*PARTS, "training"), each, strict=True)) for each in zip(*rates, strict=True)]
        middle = {what: statistics.median(each[what] for each in rounds) for what in (*PARTS, "training")}
        roofs = [1 / sum(1 / each[part] for part in PARTS) for each in rounds]
        of_roof = statistics.median(each["training"] / roof for each, roof in zip(rounds, roofs, strict=True))
        of_simulation = statistics.median(each["training"] / each["simulation"] for each in rounds)
        cells = [name, *(f"{middle[part]:,.0f} ({1e6 * cores / middle[part]:,.0f} us)" for part in PARTS)]
        cells += [f"{statistics.median(roofs):,.0f}", f"{middle['training']:,.0f}", f"{of_roof:.0%}", f"{of_simulation:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
