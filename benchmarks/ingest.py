"""What one learner process can take in: `python -m benchmarks.ingest --actors=1,8,45,150,360`. Prints Markdown.

Actors without environments and networks send trajectories as fast as the learner takes them, over real clients: 32
environments each, one put for each message and one fetch of the weights for each unroll, as in a run. The learner
receives, checks and assembles samples as in a run; training on one takes no time, and new weights are published 20
times a second. All actors run in as many processes as there are cores. Processor time is that of the learner's process,
and of all actors' together; memory is the learner's resident memory at the start and at the end of the measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from benchmarks.common import ROOT, markdown_head, markdown_row, prepare_process
from mlma.core.config import parse_or_exit
from mlma.core.types import Agent, EnvSpec
from mlma.utils.child_process import available_cores

COLUMNS = (
    "actors", "weights, MB", "steps/s", "MB/s", "learner, us a step", "actors, us a step", "memory, MB: before, after",
    "fetches/s", "fetch, ms: median, 99 %, longest",
)  # fmt: skip
PUBLISH_SECONDS = 0.05
START_SECONDS = 60.0  # within which the learner and the processes of the actors must have started


def _prepare(flags: list[str], num_threads: int) -> tuple[Any, EnvSpec, Agent, Any]:
    """(resolved configuration, spec, agent, layout of its trajectories)."""
    config, spec, agent = prepare_process(parse_or_exit(flags), num_threads)
    from mlma.core.record_layout import trajectory_layout

    return config, spec, agent, trajectory_layout(spec, agent, config.learner.unroll_length)


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_learner(flags: list[str], address: str, actors: int) -> None:
    """Takes in trajectories. For each line of standard input, prints what there is to know about the time since the
    previous one."""
    config, spec, agent, layout = _prepare(flags, available_cores())
    import tensorflow as tf

    from mlma.core.flat_weights import FlatWeights
    from mlma.learning.trajectory_receiver import TrajectoryReceiver
    from mlma.monitoring.metrics import Metrics
    from mlma.monitoring.phase_timer import PhaseTimer
    from mlma.replay.factory import make_buffer
    from mlma.transport.server import Server

    buffer, _ = make_buffer(config, agent, layout, 0, 1)
    server = Server(address, "", lambda request: {"time": time.time()}, num_actors=actors)
    weights, version, steps = FlatWeights(agent.network).read(), 1, 0
    server.publish(version, weights)
    server.start()
    metrics = Metrics(PhaseTimer("wait"), [], 1e9, 1.0)

    def fail(error: BaseException) -> None:
        print(error, file=sys.stderr)
        os._exit(1)

    TrajectoryReceiver(server.receive, buffer.insert, layout, spec, metrics, fail, num_actors=actors)

    def train() -> None:
        nonlocal steps
        while True:
            sample = buffer.sample(1.0)
            steps += sample.num_new_steps if sample else 0

    def publish() -> None:
        nonlocal version
        while True:
            time.sleep(PUBLISH_SECONDS)
            version += 1
            server.publish(version, tf.identity(weights))

    for work in (train, publish):
        threading.Thread(target=work, daemon=True).start()
    before = (time.monotonic(), time.process_time(), 0)
    for _ in sys.stdin:
        now = (time.monotonic(), time.process_time(), steps)
        seconds, cpu, taken = (after - earlier for after, earlier in zip(now, before, strict=True))
        before = now
        sizes = layout.dtype.itemsize / config.learner.unroll_length, 4 * weights.shape.num_elements()
        print(json.dumps([seconds, cpu, taken, _resident_bytes(), *sizes]), flush=True)
    os._exit(0)


def run_actors(flags: list[str], address: str, tasks: range) -> None:
    """Sends as these actors until standard input ends. For each line, prints processor time and durations of fetches
    since the previous one."""
    config, _, _, layout = _prepare(flags, 1)
    from mlma.transport.client import Client

    fetches: list[float] = []

    def act(task: int) -> None:
        messages = _messages_of_an_unroll(layout, task, config.actor.envs_per_actor)
        client = Client(address, "", 600)
        client.handshake({"task": task})
        version = -1
        while True:
            for message in messages:
                client.put(message)
            began = time.perf_counter()
            version, _ = client.fetch(version)
            fetches.append(time.perf_counter() - began)

    def run(task: int) -> None:
        try:
            act(task)
        except BaseException as error:
            print(f"actor {task}: {error!r}", file=sys.stderr)
            os._exit(1)

    for task in tasks:
        threading.Thread(target=run, args=[task], daemon=True).start()
    before = time.process_time()
    for _ in sys.stdin:
        count, cpu = len(fetches), time.process_time()
        print(json.dumps([cpu - before, fetches[:count]]), flush=True)
        before = cpu
        del fetches[:count]
    os._exit(0)


def _messages_of_an_unroll(layout: Any, task: int, num_envs: int) -> list[bytes]:
    """What an actor puts for an unroll: random observations, everything else 0. Messages of one length are one object,
    to save memory."""
    import numpy as np

    from mlma.acting.trajectory_writer import MAX_PAYLOAD_BYTES
    from mlma.monitoring.phase_timer import ACTOR_PHASES, PhaseTimer
    from mlma.transport.messages import split_message

    header = {"task": task, "dropped": 0, **PhaseTimer(*ACTOR_PHASES).snapshot()}
    per_message = max(1, MAX_PAYLOAD_BYTES // layout.dtype.itemsize)
    by_count: dict[int, list[bytes]] = {}
    messages = []
    for start in range(0, num_envs, per_message):
        count = min(per_message, num_envs - start)
        if count not in by_count:
            records = layout.empty(count)
            view = layout.view(records)
            view.actor_id[:] = task
            view.timesteps.episode_return[:] = np.nan
            observation = view.timesteps.observation
            observation[:] = np.random.default_rng(task).integers(0, 256, observation.shape, np.uint8)
            by_count[count] = split_message(header, memoryview(records.view(np.uint8)))
        messages += by_count[count]
    return messages


class _Worker:
    """A process that answers each line of its standard input with one of JSON."""

    def __init__(self, flags: list[str], **own: object) -> None:
        command = [sys.executable, "-m", "benchmarks.ingest", *(f"--{name}={value}" for name, value in own.items())]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([*command, "--", *flags], stdin=pipe, stdout=pipe, text=True, cwd=ROOT)

    def ask(self) -> Any:
        """What has happened since the last question."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise SystemExit("a process of the benchmark ended; its message is above")

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()


def measure(actors: int, flags: list[str], seconds: float, warm_up: float) -> tuple[object, ...]:
    """One row of the table."""
    with tempfile.TemporaryDirectory(prefix="mlma-ingest-") as folder:
        address, processes = f"unix:{folder}/learner", min(actors, available_cores())
        workers = [_Worker(flags, role="learner", address=address, actors=actors)]
        try:
            workers[0].ask()  # it serves
            for i in range(processes):
                tasks = f"{actors * i // processes}:{actors * (i + 1) // processes}"
                workers.append(_Worker(flags, role="actors", address=address, tasks=tasks))
            learner, *senders = workers
            for sender in senders:
                sender.ask()
            time.sleep(warm_up)
            memory_before = learner.ask()[3]
            for sender in senders:
                sender.ask()
            time.sleep(seconds)
            duration, learner_cpu, steps, memory, step_bytes, weights_bytes = learner.ask()
            answers = [sender.ask() for sender in senders]
        finally:
            for worker in reversed(workers):
                worker.end()
    fetches = sorted(1e3 * fetch for _, part in answers for fetch in part)
    shown = ", ".join(f"{fetches[int(share * (len(fetches) - 1))]:.0f}" for share in (0.5, 0.99, 1)) if fetches else "-"
    return (
        actors,
        f"{weights_bytes / 1e6:.1f}",
        f"{steps / duration:,.0f}",
        f"{steps * step_bytes / duration / 1e6:,.0f}",
        f"{learner_cpu / max(1, steps) * 1e6:.1f}",
        f"{sum(cpu for cpu, _ in answers) / max(1, steps) * 1e6:.1f}",
        f"{memory_before / 1e6:,.0f}, {memory / 1e6:,.0f}",
        f"{len(fetches) / duration:.0f}",
        shown,
    )


def main() -> None:
    """Measures, or is one of the processes that are measured (--role)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="After --: flags of experiment.py.")
    parser.add_argument("--actors", default="1,8,45,150,360", help="actors (1,8,45,150,360)")
    parser.add_argument("--agents", default="ShallowConvNetAgent,SimpleConvNetAgent", help="networks, for their size")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement (20)")
    parser.add_argument("--warm_up", type=float, default=10.0, help="seconds before each measurement (10)")
    for hidden in ("role", "address", "tasks"):
        parser.add_argument(f"--{hidden}", default="", help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help="flags of experiment.py, after --")
    arguments = parser.parse_args()
    flags = ["--level_name=PongNoFrameskip-v4", "--envs_per_actor=32", *arguments.flags]
    if arguments.role == "learner":
        return run_learner(flags, arguments.address, int(arguments.actors))
    if arguments.role == "actors":
        return run_actors(flags, arguments.address, range(*map(int, arguments.tasks.split(":"))))
    parse_or_exit(flags)
    print(markdown_head(COLUMNS))
    for agent in arguments.agents.split(","):
        for actors in map(int, arguments.actors.split(",")):
            row = measure(actors, [*flags, f"--agent_name={agent}"], arguments.seconds, arguments.warm_up)
            print(markdown_row(row), flush=True)
    return None


if __name__ == "__main__":
    main()
