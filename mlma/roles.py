"""The roles of experiment.py, wired: learn (with or without actors of its own), act, test."""

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

from mlma import actor, checkpoint, config as flags, envs, learner as learning, presets, transport, wire
from mlma.config import Config
from mlma.console import Screen, error
from mlma.evaluate import evaluate
from mlma.local import LocalActors
from mlma.memory import TrajectoryQueue
from mlma.metrics import CsvWriter, Metrics, TensorBoardWriter
from mlma.receiver import Receiver
from mlma.types import Agent, EnvSpec
from mlma.weights import FlatWeights, build

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


def act(config: Config, make_agent: MakeAgent) -> int:
    threads(config.actor_threads)
    spec = envs.spec_of(config)
    config = presets.resolve(config, spec)
    token = transport.read_token(config.token_file)
    address = transport.check_address(config.learner_host, token)
    tf.random.set_seed(int.from_bytes(os.urandom(7), "little"))

    def say(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} actor {config.task}: {line}", flush=True)

    actor.run(
        config,
        make_env=lambda seed: envs.make(config.level_name, config.envs_per_actor, seed, config),
        make_agent=lambda: make_agent(config, spec),
        connect=lambda: transport.Client(address, token, actor.CALL_SECONDS),
        hello=lambda layout, weights: hello(config, layout, weights) | {"task": config.task},
        say=say,
    )
    return 0


def test(config: Config, make_agent: MakeAgent) -> int:
    logdir = Path(config.logdir)
    path = checkpoint.Checkpoints(logdir / "checkpoints", config.keep_checkpoints).find(config.test_checkpoint)
    threads(presets.cores())
    spec = envs.spec_of(config)
    config = presets.resolve(config, spec)
    agent = make_agent(config, spec)
    build(agent, spec)
    variables, meta = checkpoint.load(path)
    wanted = {f"network/{v.name}": v for v in agent.network.variables}
    network = {name: value for name, value in variables.items() if name.startswith("network/")}
    checkpoint.check(path, network, meta, wanted, identity(config))
    for name, variable in wanted.items():
        variable.assign(network[name])
    print(f"{path}: {meta['frames']:,} frames of {config.level_name}, {config.test_num_episodes} episodes", flush=True)
    returns = []
    for episode, (value, frames) in enumerate(evaluate(config, agent)):
        returns.append(value)
        print(f"episode {episode}: return {value:g} in {frames} frames", flush=True)
    print(f"mean {np.mean(returns):.2f}  median {np.median(returns):g}  min {min(returns):g}  max {max(returns):g}")
    return 0


def identity(config: Config) -> dict[str, Any]:
    """What a checkpoint must share with the run that loads it."""
    return {name: getattr(config, name) for name in ("level_name", "algorithm", "agent_name", "num_stacked_frames")}


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


def learn(config: Config, make_agent: MakeAgent) -> int:
    """A learner; in local training (task -1) with its own actors."""
    logdir = Path(config.logdir)
    token = transport.read_token(config.token_file)
    local = config.task < 0
    sockets = Path(tempfile.mkdtemp(prefix="mlma-")) if local and config.learner_host == "auto" else None  # mode 0700
    host = f"unix:{sockets}/learner" if sockets else "localhost:8001" if config.learner_host == "auto" else config.learner_host
    address = transport.check_address(host, token)
    spec = envs.spec_of(config)
    config = presets.resolve(config, spec)
    threads(config.learner_threads)
    tf.random.set_seed(config.seed)
    logdir.mkdir(parents=True, exist_ok=True)
    agent = make_agent(config, spec)
    build(agent, spec)
    learner = learning.Learner(config, agent, spec.action_repeats)
    layout = wire.Layout(wire.trajectory_spec(spec, agent.initial_state(1), config.unroll_length))
    seeds = Seeds(config.seed)
    checkpoints = checkpoint.Checkpoints(logdir / "checkpoints", config.keep_checkpoints)
    best, seconds = float("-inf"), 0.0
    resumed = checkpoints.last()
    if resumed:
        variables, meta = checkpoint.load(resumed)
        checkpoint.check(resumed, variables, meta, learner.variables(), identity(config))
        learning.restore(learner, variables, meta["step"], meta["frames"])
        seeds.restore(meta["seeds"])
        best, seconds = meta["best"], meta["seconds"]
    flags.save(config, logdir / "config.json")

    with Screen(f"{config.algorithm} {config.level_name} {config.agent_name}", config.total_environment_frames) as screen:
        stop = Stop(screen.say)
        metrics = Metrics(
            [screen, CsvWriter(logdir / "metrics.csv", learner.frames), TensorBoardWriter(logdir)],
            config.report_every_seconds,
            config.total_environment_frames,
        )
        memory = TrajectoryQueue(layout, config.batch_size, config.queue_capacity)
        metrics.gauges["queue/fill"] = lambda: memory.fill

        def shake(offer: dict[str, Any]) -> dict[str, Any]:
            wanted = hello(config, layout, learner.weights)
            wrong = [f"{k}: actor {offer.get(k)}, learner {v}" for k, v in wanted.items() if offer.get(k) != v]
            if wrong:
                screen.say(f"refused actor {offer.get('task')}: {'; '.join(wrong)}")
                return {"refused": "; ".join(wrong)}
            return {"seed": seeds.next()}

        def save() -> None:
            nonlocal best
            mean = metrics.mean_return()
            better = metrics.full_window() and mean > best
            if better:
                best = mean
            meta = identity(config) | {
                "step": learner.step, "frames": learner.frames, "seconds": metrics.seconds, "best": best, "return": mean,
                "seeds": seeds.state(),
            }  # fmt: skip
            variables = {name: variable.numpy() for name, variable in learner.variables().items()}
            path = checkpoints.save(learner.step, variables, meta)
            if better:
                checkpoints.save_best(variables, meta)
            screen.say(f"saved {path}")

        if resumed:
            screen.say(f"resumed {resumed} at {learner.frames:,} frames")
        server = transport.Server(address, token, shake)
        server.publish(learner.step, learner.weights.read())
        server.start()
        receiver = Receiver(server.receive, memory.insert, layout, spec.num_actions, metrics, stop.fail)
        actors = None
        if local:
            command = [sys.executable, str(Path(sys.argv[0]).resolve()), *flags.to_argv(replace(config, learner_host=host, job_name="actor"))]
            actors = LocalActors(lambda i: [*command, f"--task={i}"], config.num_actors, logdir, screen.say, lambda: metrics.count("actors_restarted"))
        screen.say(f"logdir {logdir}, learner at {host}, {config.num_actors if local else 'remote'} actors")
        metrics.begin(learner.step, learner.frames, seconds)
        next_said = config.starved_seconds

        def starved(waited: float) -> None:
            nonlocal next_said
            if waited > next_said:
                screen.say(f"learner: no trajectory for {waited:.0f} s; heard of {len(receiver.seen)} actors so far")
                next_said = waited + config.starved_seconds
            elif waited < config.starved_seconds:
                next_said = config.starved_seconds

        code = 0
        try:
            learning.run(config, learner, memory, server.publish, metrics, save, lambda: stop.wanted, starved)
            metrics.report_if_due(learner.step, learner.frames, force=True)
        except learning.NonFinite as failure:
            stop.failure = failure
        finally:
            save()
            server.finish()
            memory.close()
            if actors:
                actors.stop()
            if sockets:
                shutil.rmtree(sockets, ignore_errors=True)
        if stop.failure:
            error(f"{type(stop.failure).__name__}: {stop.failure}; the last good weights are saved in {logdir}/checkpoints")
            code = 1
    sys.stdout.flush()
    os._exit(code)  # the runtime's server has no end of its own


class Seeds:
    """Hands out environment seeds: never the same twice, also after a restart of an actor or of the run."""

    BLOCK = 1024  # more than the environments of one actor

    def __init__(self, seed: int) -> None:
        self._base = int(np.random.default_rng(seed).integers(2**30))
        self._given = 0

    def next(self) -> int:
        self._given += 1
        return (self._base + self._given * self.BLOCK) % 2**31

    def state(self) -> list[int]:
        return [self._base, self._given]

    def restore(self, state: list[int]) -> None:
        self._base, self._given = state


