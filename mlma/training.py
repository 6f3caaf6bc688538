"""The learner's role, wired from its parts: alone or one of several, with or without actors of its own.

Takes a configuration without anything "auto" left in it, and what the level looks like. Not here: the loop (mlma/learner.py),
starting several learners (mlma/mpirun.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlma import allreduce as learners
from mlma import config as flags
from mlma import envs, resume, store, tracing, transport, wire, writers
from mlma import learner as learning
from mlma.allreduce import Allreduce
from mlma.config import Config
from mlma.console import Screen, error
from mlma.evaluator import Evaluator
from mlma.files import whole
from mlma.health import Pulse
from mlma.inference import Inference
from mlma.local import LocalActors
from mlma.memory import Memory, TrajectoryQueue
from mlma.metrics import Diverged, Metrics, Row
from mlma.mpirun import CLEAN_STOP, World
from mlma.pace import Pace
from mlma.peers import Peers
from mlma.phases import Busy
from mlma.receiver import Receiver
from mlma.replay import PrioritizedReplay
from mlma.replay_file import Shard
from mlma.roles import MakeAgent, threads
from mlma.types import Agent, EnvSpec
from mlma.weights import build
from mlma.welcome import Welcome, hello

Say = Callable[[str], None]
GREEDY = 0.75  # the part of the ladder of epsilons from which on an environment counts as greedy


class Stop:
    """The wish to stop: by the first Ctrl-C or SIGTERM, or by a failed thread. The second signal ends the process at once."""

    def __init__(self, say: Say) -> None:
        self.wanted = False
        self.failure: BaseException | None = None
        self._say = say
        for number in (signal.SIGINT, signal.SIGTERM, CLEAN_STOP):
            signal.signal(number, self._signal)

    def _signal(self, number: int, _: Any) -> None:
        if self.wanted:
            os._exit(128 + number)  # children go with us: mlma.local.die_with_parent
        self.wanted = True
        self._say(f"{signal.Signals(number).name}: saving a checkpoint and ending; once more ends at once")

    def fail(self, failure: BaseException) -> None:
        self.failure, self.wanted = failure, True


def learn(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    """A learner; in local training (task -1) with its own actors on a socket that only this user can open."""
    pulse = Pulse(config.health_folder, f"learner-{World.here().rank}")
    if learners.use_own_gpu():
        config = replace(config, learner_parts=1)
    threads(config.learner_threads, config.learner_parts)
    token = transport.read_token(config.token_file)
    allreduce = learners.connect(config)
    sockets = None
    if config.learner_host == "auto":
        sockets = tempfile.mkdtemp(prefix="mlma-")  # mode 0700
        config = replace(config, learner_host=f"unix:{sockets}/learner")
    config = replace(config, learner_host=own_port(config.learner_host, allreduce))
    try:
        code = _learn(config, spec, make_agent, allreduce, transport.check_address(config.learner_host, token), token, pulse)
        pulse.end()
        return code
    finally:
        if sockets:
            shutil.rmtree(sockets, ignore_errors=True)


def journal(say: Say, path: Path, allreduce: Allreduce) -> Say:
    """`say` that also keeps its lines, with their date, for the report: mlma.report."""
    name = "" if allreduce.size == 1 else f"learner {allreduce.rank}: "

    def both(line: str) -> None:
        say(name + line)
        with contextlib.suppress(OSError), path.open("a") as file:  # a full disk must not end a run
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name}{line}\n")

    return both


def write_workers(path: Path, workers: list[Any]) -> None:
    """Who took part, when last reported."""
    with contextlib.suppress(OSError), whole(path) as file:
        file.write(json.dumps({"written": time.time(), "learners": workers}).encode())


def own_port(address: str, allreduce: Allreduce) -> str:
    """Learners of one host that were given one port take it and those that follow."""
    local_rank = World.here().local_rank
    mine = f"{os.uname().nodename} {address}"
    same = allreduce.gather(mine.encode()).count(mine.encode())
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + local_rank}" if same > 1 and port.isdigit() else address


def _learn(
    config: Config, spec: EnvSpec, make_agent: MakeAgent, allreduce: Allreduce, address: str, token: str, pulse: Pulse
) -> int:
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(config.seed)  # equal on all ranks
    _check_dealt(config, spec, allreduce.size)
    logdir = Path(config.logdir)
    agent = make_agent(config, spec)
    build(agent, spec)
    learner = learning.Learner(config, agent, spec.action_repeats, allreduce)
    layout = wire.layout_of(spec, agent, config.unroll_length)
    if agent.windows:
        store.check_fits(layout.spec, config.replay_capacity, config.replay_compression, World.here().local_size)
    first = allreduce.rank == 0
    title = f"{config.algorithm} {config.level_name} {config.agent_name}"
    with Screen(title, config.total_environment_frames, plain=allreduce.size > 1) as screen:
        say = journal(screen.say, logdir / "events.log", allreduce)
        state = resume.RunState(config, learner, allreduce, say)
        state.resume()
        stop = Stop(say)
        metrics = _metrics(config, allreduce, _writers(config, screen, learner.frames, address) if first else [])
        memory, shard = _memory(config, agent, layout, allreduce.rank, say)
        inference = Inference(config, spec, make_agent(config, spec)) if config.inference == "learner" else None
        wanted = hello(config, layout, learner.weights)
        welcome = Welcome(config, wanted, allreduce.rank, allreduce.size, state.seeds, inference, metrics, say, stop.fail)
        server = transport.Server(address, token, welcome, inference)
        server.publish(learner.step, learner.weights.read())
        server.start()
        places = config.num_actors * config.envs_per_actor
        greedy_from = GREEDY * allreduce.size * places if agent.windows else math.inf
        turn = places if config.deterministic else 0
        receiver = Receiver(server.receive, memory.insert, layout, spec, metrics, stop.fail, greedy_from, turn)
        _measure(config, metrics, memory, receiver)
        if inference:
            metrics.gauges["inference/batch"] = inference.batch_size
        actors = _start_actors(config, allreduce.rank, metrics, stop, say) if config.task < 0 else None

        def save() -> bool:
            shard.save()
            return state.save(metrics) if first else True

        if first:
            metrics.writers += _beside(config, metrics, receiver, learner.frames, save, say)
        peers = Peers(allreduce, config.hang_seconds, say, last_will=save)
        missing = functools.partial(receiver.missing, config.num_actors, config.idle_seconds)
        patience = learning.Patience(config, allreduce.size == 1, missing, say, pulse)
        metrics.begin(learner.step, learner.frames, state.seconds)
        say(f"logdir {logdir}; learner at {config.learner_host}; {config.num_actors if actors else 'remote'} actors")
        try:
            learning.run(config, learner, memory, server.publish, metrics, peers, save, stop, patience, pulse)
        except (learning.NonFinite, Diverged) as failure:
            stop.failure = failure
        finally:
            with peers.phase("ending"):
                saved = save()
                shard.wait()
                memory.close()
                server.finish(0 if actors else len(receiver.heard))
                if actors:
                    actors.stop()
                for each in metrics.writers:
                    if hasattr(each, "end"):
                        each.end(whole=learner.frames >= config.total_environment_frames)
    say(f"ended after {learner.step:,} learner steps and {learner.frames:,} frames; weights {learner.checksum():08x}")
    if stop.failure:
        error(f"{type(stop.failure).__name__}: {stop.failure}; the last good weights are in {logdir}/checkpoints")
    allreduce.end()
    return 1 if stop.failure or not saved else 0


def _check_dealt(config: Config, spec: EnvSpec, learners: int) -> None:
    """ValueError if some level would be played by nobody."""
    actors = learners * config.num_actors
    if (places := actors * config.envs_per_actor) < len(spec.actions_of):
        raise ValueError(
            f"--envs_per_actor={config.envs_per_actor}: {actors} actors with so many environments are {places}; "
            f"{len(spec.actions_of)} levels need one each"
        )


def _memory(config: Config, agent: Agent, layout: wire.Layout, rank: int, say: Say) -> tuple[Memory, Shard]:
    """The memory that this algorithm learns from, and what becomes of it when the run is saved and resumed."""
    windows = agent.windows
    if windows is None:
        return TrajectoryQueue(layout, config.batch_size, config.queue_capacity, config.sample_reuse), Shard(None, None, say)
    learned = config.batch_size * (1 if windows.every_step else windows.length)
    replay = PrioritizedReplay(
        layout,
        windows,
        Pace(config.replay_ratio, config.replay_min_fill, learned, say),
        config.replay_capacity,
        config.batch_size,
        (config.priority_exponent, config.importance_exponent),
        config.priority_eta,
        config.seed + rank,
        config.replay_compression,
    )
    path = Path(config.logdir) / "checkpoints" / f"replay-{rank}.bin" if config.checkpoint_replay else None
    shard = Shard(replay, path, say)
    shard.restore()
    say(f"replay of {config.replay_capacity:,} steps of {replay.bytes_per_step():,.0f} bytes")
    return replay, shard


def _metrics(config: Config, allreduce: Allreduce, found: list[Callable[[Row], None]]) -> Metrics:
    """With these writers, which only the first learner has."""
    metrics = Metrics(
        found,
        config.report_every_seconds,
        config.total_environment_frames,
        allreduce.gather,
        envs.levels(config.level_name),
        config.report_every_steps,
    )
    if found:
        metrics.record_workers = lambda workers: write_workers(Path(config.logdir) / "workers.json", workers)
    return metrics


def _measure(config: Config, metrics: Metrics, memory: Memory, receiver: Receiver) -> None:
    """What is reported of this learner beside its own loop."""
    metrics.gauges |= memory.gauges()
    metrics.clocks |= {
        "receiver/wait": lambda: receiver.phases.seconds["wait"],
        "receiver/full": lambda: memory.waited,
        "receiver/stack": lambda: receiver.phases.seconds["stack"] - memory.waited,
    }
    busy = Busy()  # if learner and actors share these cores
    metrics.gauges["host/busy"] = lambda: busy() if metrics.actors_only_on(os.uname().nodename) else math.nan


def _beside(
    config: Config, metrics: Metrics, receiver: Receiver, frames: int, save: Callable[[], object], say: Say
) -> list[Any]:
    """What the first learner does beside, each time it reports."""
    found: list[Any] = []
    if config.evaluate_every:
        evaluator = Evaluator(config, frames, save, say)
        metrics.own["evaluation/mean"] = lambda: evaluator.mean
        found.append(evaluator)
    if config.profile:

        def collect(who: str, events: Any) -> None:
            if who == tracing.LEARNER:
                metrics.events = events
            elif who == tracing.RECEIVER:
                receiver.phases.events = events
            else:
                receiver.events = events

        found.append(tracing.Profile(config, collect, say))
    return found


def _writers(config: Config, screen: Screen, frames: int, address: str) -> list[Callable[[Row], None]]:
    """What records a run; only rank 0 has them."""
    logdir = Path(config.logdir)
    flags.save(replace(config, learner_host="auto") if address.startswith("unix:") else config, logdir / "config.json")
    made: list[Callable[[Row], None]] = [screen, writers.CsvWriter(logdir / "metrics.csv", frames)]
    if config.deterministic:
        made.append(writers.Curve(logdir / "curve.csv", frames))
    return made + writers.make(config.writers, logdir, dataclasses.asdict(config), screen.say)


def _start_actors(config: Config, rank: int, metrics: Metrics, stop: Stop, say: Say) -> LocalActors:
    words = flags.to_argv(replace(config, job_name="actor", task=0, health_folder=""))
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), *words]
    return LocalActors(
        lambda task: [*command, f"--task={task}"],
        config.num_actors,
        Path(config.logdir) / f"learner-{rank}" if rank else Path(config.logdir),
        say,
        restarted=lambda: metrics.count("actors_restarted"),
        stopping=lambda: stop.wanted,
        failed=stop.fail,
    )
