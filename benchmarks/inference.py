"""What acting costs here and there: `python -m benchmarks.inference`, an entry point like experiment.py. Prints Markdown.

In turn for each number of environments and of actors: actors that act themselves (--inference=actor), and actors that ask a
learner (--inference=learner), which does nothing but answer and throws the trajectories away. Steps per second are of all
actors together; the time of an answer is from the call of the player to its action, percentiles over all actors.
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
from typing import Any

from benchmarks.roofline import ROOT, prepare
from mlma.core.config import Config, parse, parse_or_exit
from mlma.utils.child_process import available_cores
from mlma.utils.tensorflow_setup import import_tensorflow

PLACES = ("actor", "learner")
COLUMNS = ("actors", "environments each", "who acts", "steps/s", "an answer takes, ms: median, 95 %, 99 %", "in a batch")


def prepared(argv: list[str]) -> tuple[Config, Any, Any]:
    """(config, spec, agent), in this process, without anything "auto"."""
    config = parse(argv)
    import_tensorflow()
    from mlma.utils.tensorflow_setup import set_tensorflow_threads

    set_tensorflow_threads(config.actor.actor_threads if config.run.job_name == "actor" else available_cores())
    return prepare(config)


def serve(argv: list[str]) -> None:
    """A learner that answers until its standard input ends; then it prints the mean size of a batch."""
    config, spec, agent = prepared(argv)
    from mlma.acting.inference_server import InferenceServer
    from mlma.acting.trajectory_writer import env_indices
    from mlma.core.flat_weights import FlatWeights
    from mlma.transport.server import Server

    inference = InferenceServer(config, spec, agent)

    def welcome(offer: dict[str, Any]) -> dict[str, Any]:
        task, actors = offer["task"], config.actor.num_actors
        session = inference.open(task, offer["envs"], env_indices(task, actors, offer["envs"]), task)
        return {"seed": task, "actor": task, "actors": actors, "time": time.time(), "session": session}

    server = Server(config.distributed.learner_host, "", welcome, inference)
    server.publish(1, FlatWeights(agent.network).read())
    server.start()

    def drain() -> None:
        while server.receive() is not None:
            pass

    threading.Thread(target=drain, daemon=True).start()
    sys.stdin.read()
    print(json.dumps(inference.batch_size()), flush=True)
    os._exit(0)


def play(argv: list[str], seconds: float, start_at: float) -> None:
    """An actor; prints its steps per second and how long each answer took."""
    config, spec, agent = prepared(argv)
    from mlma.acting.environment_loop import ActorDependencies, run_environment_loop
    from mlma.envs.registry import make_for_levels
    from mlma.monitoring.heartbeat import Heartbeat
    from mlma.transport.client import Client
    from mlma.transport.protocol import LearnerLostError

    taken: list[float] = []
    steps: list[float] = []  # when each began

    class Over(Exception):
        pass

    class Timed:
        """The environments, with a look at the clock around what is between their steps."""

        def __init__(self, env: Any) -> None:
            self.spec, self.num_envs, self._env = env.spec, env.num_envs, env
            self.close = env.close
            self._since = 0.0

        def reset(self) -> Any:
            timestep = self._env.reset()  # many seconds for many games
            if time.time() > start_at:
                print("--warm_up is too short for this; its rounds overlap less", file=sys.stderr)
            self._since = time.perf_counter()
            return timestep

        def step(self, action: Any) -> Any:
            now, date = time.perf_counter(), time.time()
            if date > start_at:
                taken.append(now - self._since)
                steps.append(date)
            if steps and date > steps[0] + seconds:
                raise Over
            timestep = self._env.step(action)
            self._since = time.perf_counter()
            return timestep

    outside = ActorDependencies(
        make_env=lambda seed, places: Timed(
            make_for_levels(config.environment, spec, places % (len(spec.actions_by_level) or 1), seed)
        ),
        connect=lambda: Client(config.distributed.learner_host, "", 30),
        handshake_request=lambda layout, weights: {"task": config.run.task, "envs": config.actor.envs_per_actor},
        say=lambda line: print(line, file=sys.stderr),
        heartbeat=Heartbeat("", "bench"),
    )
    with contextlib.suppress(Over, LearnerLostError):
        run_environment_loop(config, spec, agent, outside)
    rate = (len(steps) - 1) * config.actor.envs_per_actor / (steps[-1] - steps[0])
    print(json.dumps([rate, taken]), flush=True)
    os._exit(0)


def measure(where: str, actors: int, num_envs: int, argv: list[str], seconds: float, warm_up: float) -> tuple[Any, ...]:
    """(steps per second, seconds of each answer, size of a batch)."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--learner_host=unix:{folder}/socket", f"--num_actors={actors}", f"--envs_per_actor={num_envs}"]
        start = [sys.executable, "-m", "benchmarks.inference", f"--start_at={time.time() + warm_up}", f"--seconds={seconds}"]

        def begin(role: str, task: int) -> subprocess.Popen[str]:
            mine = ["--", *argv, *words, f"--inference={where}", f"--job_name={role}", f"--task={task}"]
            pipe = subprocess.PIPE
            return subprocess.Popen([*start, f"--role={role}", *mine], stdin=pipe, stdout=pipe, cwd=ROOT, text=True)

        learner = begin("learner", 0)
        others = [begin("actor", task) for task in range(actors)]
        found = [json.loads(each.communicate()[0].splitlines()[-1]) for each in others]
        batch = json.loads(learner.communicate()[0].splitlines()[-1])
    return sum(rate for rate, _ in found), [each for _, taken in found for each in taken], batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="After --: flags of experiment.py.")
    parser.add_argument("--envs", default="1,4,16,64", help="environments of an actor (1,4,16,64)")
    parser.add_argument("--actors", default="1", help="actors (1)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each measurement (8)")
    parser.add_argument("--warm_up", type=float, default=15.0, help="seconds before each measurement (15)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured; medians are printed (2)")
    parser.add_argument("--role", choices=("learner", "actor"), help=argparse.SUPPRESS)
    parser.add_argument("--start_at", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help="flags of experiment.py, after --")
    asked = parser.parse_args()
    parse_or_exit(asked.flags)
    if asked.role == "learner":
        serve(asked.flags)
    elif asked.role == "actor":
        play(asked.flags, asked.seconds, asked.start_at)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for actors in map(int, asked.actors.split(",")):
        for num_envs in map(int, asked.envs.split(",")):
            found: dict[str, list[Any]] = {where: [] for where in PLACES}
            for _ in range(asked.rounds):
                for where in PLACES:
                    found[where].append(measure(where, actors, num_envs, asked.flags, asked.seconds, asked.warm_up))
            for where, rounds in found.items():
                print(line(where, actors, num_envs, rounds), flush=True)


def line(where: str, actors: int, num_envs: int, rounds: list[Any]) -> str:
    rate = statistics.median(each[0] for each in rounds)
    taken = sorted(1e3 * seconds for each in rounds for seconds in each[1])
    percentiles = ", ".join(f"{taken[int(share * (len(taken) - 1))]:.2f}" for share in (0.5, 0.95, 0.99))
    batch = f"{statistics.median(each[2] for each in rounds):.0f}" if where == "learner" else f"{num_envs}"
    return f"| {actors} | {num_envs} | {where} | {rate:,.0f} | {percentiles} | {batch} |"


if __name__ == "__main__":
    main()
