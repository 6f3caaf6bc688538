"""Compares inference in the actor and in the learner: `python -m benchmarks.inference`. Prints Markdown.

For each number of environments and of actors, in alternating rounds: actors with their own network
(--inference=actor), and actors that request actions (--inference=learner) from a learner that does nothing else and
discards the trajectories. Steps per second are summed over all actors; latency is the time a policy takes for one
call, percentiles over all actors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

from benchmarks.common import ROOT, markdown_head, markdown_row, prepare_process
from mlma.core.config import parse, parse_or_exit
from mlma.utils.child_process import available_cores

PLACES = ("actor", "learner")
COLUMNS = ("actors", "environments each", "inference in", "steps/s", "latency, ms: median, 95 %, 99 %", "batch size")


class Measurement(NamedTuple):
    """The result of one round."""

    rate: float  # steps per second of all actors together
    latencies: list[float]  # seconds per call of a policy
    batch_size: float  # environments in a batch of the learner


class MeasurementOverError(Exception):
    """Ends an actor's loop."""


class TimedEnv:
    """A VectorEnv that measures the time between its steps, which is the policy's."""

    def __init__(self, env: Any, start_at: float, seconds: float) -> None:
        """Measures for `seconds` from `start_at` (a time of day) on, then raises MeasurementOverError."""
        self.spec, self.num_envs, self.close = env.spec, env.num_envs, env.close
        self.latencies: list[float] = []
        self.step_times: list[float] = []  # time of day when each step began
        self._env, self._start_at, self._seconds = env, start_at, seconds
        self._since = 0.0

    def reset(self) -> Any:
        """See VectorEnv."""
        timestep = self._env.reset()  # takes many seconds for many environments
        if time.time() > self._start_at:
            print("--warm_up is too short: the rounds of the actors overlap less", file=sys.stderr)
        self._since = time.perf_counter()
        return timestep

    def step(self, action: Any) -> Any:
        """See VectorEnv."""
        latency, now = time.perf_counter() - self._since, time.time()
        if now > self._start_at:
            self.latencies.append(latency)
            self.step_times.append(now)
        if self.step_times and now > self.step_times[0] + self._seconds:
            raise MeasurementOverError
        timestep = self._env.step(action)
        self._since = time.perf_counter()
        return timestep


def run_learner(argv: list[str]) -> None:
    """Serves actors until standard input ends; then prints the mean batch size and exits."""
    config, spec, agent = prepare_process(parse(argv), available_cores())
    from mlma.acting.inference_server import InferenceServer
    from mlma.acting.trajectory_writer import env_indices
    from mlma.core.flat_weights import FlatWeights
    from mlma.transport.server import Server

    inference = InferenceServer(config, spec, agent)

    def admit(request: dict[str, Any]) -> dict[str, Any]:
        task, num_actors, num_envs = request["task"], config.actor.num_actors, request["envs"]
        session = inference.open(task, num_envs, env_indices(task, num_actors, num_envs), task)
        return {"seed": task, "actor": task, "actors": num_actors, "time": time.time(), "session": session}

    server = Server(config.distributed.learner_host, "", admit, inference)
    server.publish(1, FlatWeights(agent.network).read())
    server.start()

    def discard() -> None:
        while server.receive() is not None:
            pass

    threading.Thread(target=discard, daemon=True).start()
    sys.stdin.read()
    print(json.dumps(inference.batch_size()), flush=True)
    os._exit(0)


def run_actor(argv: list[str], seconds: float, start_at: float) -> None:
    """Acts; prints its steps per second and the latency of each call of its policy, and exits."""
    given = parse(argv)
    config, spec, agent = prepare_process(given, given.actor.actor_threads)
    from mlma.acting.environment_loop import ActorDependencies, run_environment_loop
    from mlma.envs.registry import make_for_levels
    from mlma.monitoring.heartbeat import Heartbeat
    from mlma.transport.client import Client
    from mlma.transport.protocol import LearnerLostError

    envs: list[TimedEnv] = []

    def make_env(seed: int, indices: Any) -> TimedEnv:
        env = make_for_levels(config.environment, spec, indices % (len(spec.actions_by_level) or 1), seed)
        envs.append(TimedEnv(env, start_at, seconds))
        return envs[-1]

    dependencies = ActorDependencies(
        make_env=make_env,
        connect=lambda: Client(config.distributed.learner_host, "", 30),
        handshake_request=lambda layout, weights: {"task": config.run.task, "envs": config.actor.envs_per_actor},
        heartbeat=Heartbeat("", "benchmark"),
    )
    with contextlib.suppress(MeasurementOverError, LearnerLostError):
        run_environment_loop(config, spec, agent, dependencies)
    step_times = [moment for env in envs for moment in env.step_times]
    rate = (len(step_times) - 1) * config.actor.envs_per_actor / (step_times[-1] - step_times[0])
    print(json.dumps([rate, [latency for env in envs for latency in env.latencies]]), flush=True)
    os._exit(0)


def measure(place: str, actors: int, num_envs: int, argv: list[str], seconds: float, warm_up: float) -> Measurement:
    """One round with inference in `place`."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            *argv,
            f"--learner_host=unix:{folder}/socket",
            f"--num_actors={actors}",
            f"--envs_per_actor={num_envs}",
        ]
        module = [sys.executable, "-m", "benchmarks.inference"]
        times = [f"--start_at={time.time() + warm_up}", f"--seconds={seconds}"]

        def start(role: str, task: int) -> subprocess.Popen[str]:
            own_flags = [f"--inference={place}", f"--job_name={role}", f"--task={task}"]
            command = [*module, *times, f"--role={role}", "--", *flags, *own_flags]
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)

        learner = start("learner", 0)
        processes = [start("actor", task) for task in range(actors)]
        results = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
        batch_size = json.loads(learner.communicate()[0].splitlines()[-1])
    rate = sum(rate for rate, _ in results)
    return Measurement(rate, [latency for _, latencies in results for latency in latencies], batch_size)


def format_row(place: str, actors: int, num_envs: int, rounds: list[Measurement]) -> str:
    """One row of the table: medians over the rounds."""
    rate = statistics.median(each.rate for each in rounds)
    latencies = sorted(1e3 * seconds for each in rounds for seconds in each.latencies)
    percentiles = ", ".join(f"{latencies[int(share * (len(latencies) - 1))]:.2f}" for share in (0.5, 0.95, 0.99))
    batch = f"{statistics.median(each.batch_size for each in rounds):.0f}" if place == "learner" else f"{num_envs}"
    return markdown_row((actors, num_envs, place, f"{rate:,.0f}", percentiles, batch))


def main() -> None:
    """Measures, or is one of the processes that are measured (--role)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="After --: flags of experiment.py.")
    parser.add_argument("--envs", default="1,4,16,64", help="environments of an actor (1,4,16,64)")
    parser.add_argument("--actors", default="1", help="actors (1)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each measurement (8)")
    parser.add_argument("--warm_up", type=float, default=15.0, help="seconds before each measurement (15)")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each; medians are printed (2)")
    parser.add_argument("--role", choices=("learner", "actor"), help=argparse.SUPPRESS)
    parser.add_argument("--start_at", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help="flags of experiment.py, after --")
    arguments = parser.parse_args()
    flags, seconds, warm_up = arguments.flags, arguments.seconds, arguments.warm_up
    parse_or_exit(flags)
    if arguments.role == "learner":
        return run_learner(flags)
    if arguments.role == "actor":
        return run_actor(flags, seconds, arguments.start_at)
    print(markdown_head(COLUMNS))
    for actors in map(int, arguments.actors.split(",")):
        for num_envs in map(int, arguments.envs.split(",")):
            results: dict[str, list[Measurement]] = {place: [] for place in PLACES}
            for _ in range(arguments.rounds):
                for place in PLACES:
                    results[place].append(measure(place, actors, num_envs, flags, seconds, warm_up))
            for place, rounds in results.items():
                print(format_row(place, actors, num_envs, rounds), flush=True)
    return None


if __name__ == "__main__":
    main()
