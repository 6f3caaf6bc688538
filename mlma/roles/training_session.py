"""A training session: from the weights, through the training loop, to the last checkpoint.

Order matters: build the weights, create the optimizer's slots, restore, broadcast, and only then serve actors. Not here: the loop
(mlma/learning/training_loop.py), several learners on one machine (mlma/distributed/mpi_launcher.py).
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import tensorflow as tf

from mlma.core.config import Config
from mlma.core.flat_weights import build_variables
from mlma.core.types import EnvSpec, MakeAgent
from mlma.distributed.allreduce import Allreduce
from mlma.distributed.hang_detector import HangDetector
from mlma.learning.learner import Learner, NonFiniteLossError
from mlma.learning.run_state import RunState
from mlma.learning.training_loop import SampleWaiter, Surroundings, training_loop
from mlma.monitoring.console import ConsoleDisplay, print_error
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.metrics import WeightsDivergedError
from mlma.monitoring.phase_timer import PhaseTimer
from mlma.monitoring.run_log import setup_logging
from mlma.roles import learner_telemetry
from mlma.roles.learner_data import LearnerData, serve_actors
from mlma.roles.local_actors import start_local_actors
from mlma.roles.stop_signal import StopSignal

logger = logging.getLogger(__name__)


def run_session(
    config: Config,
    spec: EnvSpec,
    make_agent: MakeAgent,
    allreduce: Allreduce,
    address: str,
    token: str,
    heartbeat: Heartbeat,
) -> int:
    """Trains; the exit code of the process."""
    if config.run.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(config.run.seed)  # equal on all ranks
    _check_level_coverage(config, spec, allreduce.size)
    agent = make_agent(config, spec)
    build_variables(agent, spec)
    learner = Learner(config, agent, spec.action_repeats, allreduce)
    logdir, is_first = Path(config.run.logdir), allreduce.rank == 0
    title = f"{config.run.algorithm} {config.environment.level_name} {config.run.agent_name}"
    total_frames = config.run.total_environment_frames
    with ConsoleDisplay(title, total_frames, plain=allreduce.size > 1) as display:
        worker = "" if allreduce.size == 1 else f"learner {allreduce.rank}"
        setup_logging(worker, display.show, logdir / "events.log")
        state = RunState(config, learner, allreduce)
        state.resume()
        stop, timer = StopSignal(), PhaseTimer()
        listeners = learner_telemetry.make_run_loggers(config, display, learner.frames, address) if is_first else []
        metrics = learner_telemetry.make_metrics(config, timer, allreduce, listeners)
        data = serve_actors(config, spec, make_agent, agent, learner, allreduce, state.seeds, metrics, stop, address, token)
        learner_telemetry.register_gauges(metrics, data.buffer, data.receiver)
        actors = None
        if config.run.task < 0:
            restarted = functools.partial(metrics.count_fault, "actors_restarted")
            actors = start_local_actors(config, allreduce.rank, restarted, lambda: stop.requested, stop.fail)

        def save() -> bool:
            data.snapshot.save()
            return state.save(metrics) if is_first else True

        if is_first:
            learner_telemetry.add_periodic_tasks(config, metrics, timer, data.receiver, learner.frames, save)
        HangDetector(allreduce, config.distributed.hang_timeout_seconds, lambda: timer.current, on_hang=save)
        waiter = _sample_waiter(config, allreduce, data, heartbeat)
        metrics.begin(learner.step, learner.frames, state.seconds)
        num_actors = config.actor.num_actors if actors else "remote"
        logger.info("logdir %s; learner at %s; %s actors", logdir, config.distributed.learner_host, num_actors)
        surroundings = Surroundings(metrics, timer, heartbeat, stop, data.server.publish, save)
        try:
            training_loop(config, learner, data.buffer, waiter, surroundings)
        except (NonFiniteLossError, WeightsDivergedError) as failure:
            stop.failure = failure
        finally:
            with timer.phase("end"):
                saved = save()
                data.snapshot.wait()
                data.buffer.close()
                data.server.shutdown(0 if actors else len(data.receiver.last_seen))
                if actors:
                    actors.stop()
                metrics.close(finished=learner.frames >= total_frames)
    logger.info(
        "ended after %s learner steps and %s frames; weights %08x",
        f"{learner.step:,}", f"{learner.frames:,}", learner.checksum(),
    )  # fmt: skip
    if stop.failure:
        reason = f"{type(stop.failure).__name__}: {stop.failure}"
        print_error(f"{reason}; the last good weights are in {logdir}/checkpoints")
    allreduce.shutdown()
    return 1 if stop.failure or not saved else 0


def _check_level_coverage(config: Config, spec: EnvSpec, num_learners: int) -> None:
    """ValueError if no environment would be left for some level."""
    num_actors, envs_per_actor = num_learners * config.actor.num_actors, config.actor.envs_per_actor
    num_levels = len(spec.actions_by_level)
    if num_actors * envs_per_actor < num_levels:
        raise ValueError(
            f"--envs_per_actor={envs_per_actor}: {num_actors} actors with this many environments have "
            f"{num_actors * envs_per_actor}; {num_levels} levels need at least one each"
        )


def _sample_waiter(config: Config, allreduce: Allreduce, data: LearnerData, heartbeat: Heartbeat) -> SampleWaiter:
    silent_actors = functools.partial(
        data.receiver.silent_actors, config.actor.num_actors, config.distributed.sample_timeout_seconds
    )
    return SampleWaiter(config, allreduce.size == 1, silent_actors, heartbeat)
