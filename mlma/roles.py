"""The roles of experiment.py, wired from their parts: learn (with or without actors of its own), act, test.

Each takes a configuration without anything \"auto\" left in it, and what the level looks like.
"""

from __future__ import annotations

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

import numpy as np
import tensorflow as tf

from mlma import actor, checkpoint, envs, presets, resume, transport, wire
from mlma import config as flags
from mlma import learner as learning
from mlma.config import Config
from mlma.console import Screen, error
from mlma.evaluate import evaluate
from mlma.local import LocalActors
from mlma.memory import TrajectoryQueue
from mlma.metrics import CsvWriter, Metrics, Row, TensorBoardWriter
from mlma.receiver import Receiver
from mlma.types import Agent, EnvSpec
from mlma.weights import FlatWeights, build, named

MakeAgent = Callable[[Config, EnvSpec], Agent]
MUST_MATCH = (
    "level_name", "algorithm", "agent_name", "unroll_length", "num_action_repeats", "width", "height", "num_stacked_frames",
    "sticky_actions", "noop_max", "life_loss_ends_return", "full_action_space",
)  # fmt: skip


def threads(count: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(max(1, min(2, count)))


def hello(config: Config, layout: wire.Layout, weights: FlatWeights) -> dict[str, Any]:
    """What actor and learner must agree on."""
    agreed = {name: getattr(config, name) for name in MUST_MATCH}
    return agreed | {"trajectory": layout.signature, "weights": weights.signature}


# -- actor


def act(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    threads(config.actor_threads)
    token = transport.read_token(config.token_file)
    address = transport.check_address(config.learner_host, token)
    tf.random.set_seed(int.from_bytes(os.urandom(7), "little"))

    def say(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} actor {config.task}: {line}", flush=True)

    actor.run(
        config,
        spec,
        make_agent(config, spec),
        make_env=lambda seed: envs.make(config.level_name, config.envs_per_actor, seed, config),
        connect=lambda: transport.Client(address, token, actor.CALL_SECONDS),
        hello=lambda layout, weights: hello(config, layout, weights) | {"task": config.task},
        say=say,
    )
    return 0


# -- test


def test(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    checkpoints = checkpoint.Checkpoints(Path(config.logdir) / "checkpoints", config.keep_checkpoints)
    path = checkpoints.find(config.test_checkpoint)
    threads(presets.cores())
    agent = make_agent(config, spec)
    build(agent, spec)
    variables, meta = checkpoint.load(path)
    wanted = named("network", agent.network.variables)
    network = {name: value for name, value in variables.items() if name.startswith("network/")}
    checkpoint.check(path, network, meta, wanted, resume.identity(config))
    for name, variable in wanted.items():
        variable.assign(network[name])
    tf.random.set_seed(config.seed)
    print(f"{path}: {meta['frames']:,} frames of {config.level_name}; {config.test_num_episodes} episodes", flush=True)
    returns = []
    for value, frames in evaluate(config, agent):
        returns.append(value)
        print(f"episode {len(returns)}: return {value:g} in {frames:,} frames", flush=True)
    print(f"mean {np.mean(returns):.2f}  median {np.median(returns):g}  min {min(returns):g}  max {max(returns):g}")
    return 0


# -- learner


class Stop:
    """The wish to stop: by the first Ctrl-C or SIGTERM, or by a failed thread. The second signal ends the process at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.wanted = False
        self.failure: BaseException | None = None
        self._say = say
        for number in (signal.SIGINT, signal.SIGTERM):
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
    token = transport.read_token(config.token_file)
    sockets = None
    if config.learner_host == "auto":
        sockets = tempfile.mkdtemp(prefix="mlma-")  # mode 0700
        config = replace(config, learner_host=f"unix:{sockets}/learner")
    try:
        return _learn(config, spec, make_agent, transport.check_address(config.learner_host, token), token)
    finally:
        if sockets:
            shutil.rmtree(sockets, ignore_errors=True)


def _learn(config: Config, spec: EnvSpec, make_agent: MakeAgent, address: str, token: str) -> int:
    threads(config.learner_threads)
    tf.random.set_seed(config.seed)
    logdir = Path(config.logdir)
    logdir.mkdir(parents=True, exist_ok=True)
    agent = make_agent(config, spec)
    build(agent, spec)
    learner = learning.Learner(config, agent, spec.action_repeats)
    layout = wire.Layout(wire.trajectory_spec(spec, agent.initial_state(1), config.unroll_length))
    with Screen(f"{config.algorithm} {config.level_name} {config.agent_name}", config.total_environment_frames) as screen:
        state = resume.RunState(config, learner, screen.say)
        state.resume()
        flags.save(replace(config, learner_host="auto") if address.startswith("unix:") else config, logdir / "config.json")
        stop = Stop(screen.say)
        writers: list[Callable[[Row], None]] = [
            screen,
            CsvWriter(logdir / "metrics.csv", learner.frames),
            TensorBoardWriter(logdir),
        ]
        metrics = Metrics(writers, config.report_every_seconds, config.total_environment_frames)
        memory = TrajectoryQueue(layout, config.batch_size, config.queue_capacity, config.sample_reuse)
        metrics.gauges["queue/fill"] = lambda: memory.fill
        wanted = hello(config, layout, learner.weights)
        server = transport.Server(address, token, lambda offer: _welcome(offer, wanted, state.seeds, screen.say))
        server.publish(learner.step, learner.weights.read())
        server.start()
        receiver = Receiver(server.receive, memory.insert, layout, spec.num_actions, metrics, stop.fail)
        actors = _start_actors(config, metrics, stop, screen.say) if config.task < 0 else None
        metrics.begin(learner.step, learner.frames, state.seconds)
        screen.say(f"logdir {logdir}; learner at {config.learner_host}; {config.num_actors if actors else 'remote'} actors")
        try:
            learning.run(config, learner, memory, server.publish, metrics, lambda: state.save(metrics), stop, screen.say)
        except learning.NonFinite as failure:
            stop.failure = failure
        finally:
            saved = state.save(metrics)
            memory.close()
            server.finish(0 if actors else len(receiver.seen))
            if actors:
                actors.stop()
    if stop.failure:
        error(f"{type(stop.failure).__name__}: {stop.failure}; the last good weights are in {logdir}/checkpoints")
    return 1 if stop.failure or not saved else 0


def _welcome(offer: dict[str, Any], wanted: dict[str, Any], seeds: resume.Seeds, say: Callable[[str], None]) -> dict[str, Any]:
    """The answer to a handshake: a seed, or the difference for which the actor is refused."""
    wrong = [
        f"{name}: actor has {offer.get(name)}, learner {value}" for name, value in wanted.items() if offer.get(name) != value
    ]
    if wrong:
        say(f"refused actor {offer.get('task')}: {'; '.join(wrong)}")
        return {"refused": "; ".join(wrong)}
    return {"seed": seeds.next()}


def _start_actors(config: Config, metrics: Metrics, stop: Stop, say: Callable[[str], None]) -> LocalActors:
    words = flags.to_argv(replace(config, job_name="actor", task=0))
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), *words]
    return LocalActors(
        lambda task: [*command, f"--task={task}"],
        config.num_actors,
        Path(config.logdir),
        say,
        restarted=lambda: metrics.count("actors_restarted"),
        stopping=lambda: stop.wanted,
    )
