"""The learner's role, wired from its parts: alone or one of several, with or without actors of its own.

Takes a configuration without anything "auto" left in it, and what the level looks like. Not here: the loop (mlma/learning/learner.py),
starting several learners (mlma/distributed/mpi_launcher.py).
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import tensorflow as tf

from mlma.acting.inference_server import InferenceServer
from mlma.core.config.config import Config
from mlma.core.flat_weights import build_variables
from mlma.core.record_layout import trajectory_layout
from mlma.core.types import EnvSpec, MakeAgent
from mlma.distributed.allreduce import Allreduce
from mlma.distributed.hang_detector import HangDetector
from mlma.distributed.world import World
from mlma.learning.admission import ActorAdmission
from mlma.learning.learner import Learner, NonFiniteLossError
from mlma.learning.run_state import RunState
from mlma.learning.training_loop import SampleWaiter, training_loop
from mlma.learning.trajectory_receiver import TrajectoryReceiver
from mlma.monitoring.console import ConsoleDisplay, print_error
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.metrics import WeightsDivergedError
from mlma.monitoring.run_log import event_log
from mlma.replay.factory import make_buffer
from mlma.replay.trajectory_store import check_fits
from mlma.roles.learner_data import GREEDY_SHARE
from mlma.roles.learner_telemetry import make_metrics, make_run_loggers, periodic_tasks, register_gauges
from mlma.roles.local_actors import start_local_actors
from mlma.roles.stop_signal import StopSignal
from mlma.transport.handshake import handshake_request
from mlma.transport.server import Server


def run_session(
    config: Config, spec: EnvSpec, make_agent: MakeAgent, allreduce: Allreduce, address: str, token: str, pulse: Heartbeat
) -> int:
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(config.seed)  # equal on all ranks
    _check_level_coverage(config, spec, allreduce.size)
    logdir = Path(config.logdir)
    agent = make_agent(config, spec)
    build_variables(agent, spec)
    learner = Learner(config, agent, spec.action_repeats, allreduce)
    layout = trajectory_layout(spec, agent, config.unroll_length)
    if agent.windows:
        check_fits(layout.spec, config.replay_capacity, config.replay_compression, World.here().local_size)
    first = allreduce.rank == 0
    title = f"{config.algorithm} {config.level_name} {config.agent_name}"
    with ConsoleDisplay(title, config.total_environment_frames, plain=allreduce.size > 1) as screen:
        say = event_log(screen.say, logdir / "events.log", allreduce)
        state = RunState(config, learner, allreduce, say)
        state.resume()
        stop = StopSignal(say)
        metrics = make_metrics(config, allreduce, make_run_loggers(config, screen, learner.frames, address) if first else [])
        memory, shard = make_buffer(config, agent, layout, allreduce.rank, say)
        inference = InferenceServer(config, spec, make_agent(config, spec)) if config.inference == "learner" else None
        wanted = handshake_request(config, layout, learner.weights)
        welcome = ActorAdmission(
            config, wanted, allreduce.rank, allreduce.size, state.seeds, inference, metrics, say, stop.fail
        )
        server = Server(address, token, welcome, inference)
        server.publish(learner.step, learner.weights.read())
        server.start()
        places = config.num_actors * config.envs_per_actor
        greedy_from = GREEDY_SHARE * allreduce.size * places if agent.windows else math.inf
        turn = places if config.deterministic else 0
        receiver = TrajectoryReceiver(server.receive, memory.insert, layout, spec, metrics, stop.fail, greedy_from, turn)
        register_gauges(config, metrics, memory, receiver)
        if inference:
            metrics.gauges["inference/batch"] = inference.batch_size
        actors = start_local_actors(config, allreduce.rank, metrics, stop, say) if config.task < 0 else None

        def save() -> bool:
            shard.save()
            return state.save(metrics) if first else True

        if first:
            metrics.writers += periodic_tasks(config, metrics, receiver, learner.frames, save, say)
        peers = HangDetector(allreduce, config.hang_seconds, say, last_will=save)
        missing = functools.partial(receiver.missing, config.num_actors, config.idle_seconds)
        patience = SampleWaiter(config, allreduce.size == 1, missing, say, pulse)
        metrics.begin(learner.step, learner.frames, state.seconds)
        say(f"logdir {logdir}; learner at {config.learner_host}; {config.num_actors if actors else 'remote'} actors")
        try:
            training_loop(config, learner, memory, server.publish, metrics, peers, save, stop, patience, pulse)
        except (NonFiniteLossError, WeightsDivergedError) as failure:
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
        print_error(f"{type(stop.failure).__name__}: {stop.failure}; the last good weights are in {logdir}/checkpoints")
    allreduce.end()
    return 1 if stop.failure or not saved else 0


def _check_level_coverage(config: Config, spec: EnvSpec, learners: int) -> None:
    """ValueError if some level would be played by nobody."""
    actors = learners * config.num_actors
    if (places := actors * config.envs_per_actor) < len(spec.actions_of):
        raise ValueError(
            f"--envs_per_actor={config.envs_per_actor}: {actors} actors with so many environments are {places}; "
            f"{len(spec.actions_of)} levels need one each"
        )
