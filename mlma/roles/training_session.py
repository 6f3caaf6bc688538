"""A training session: from the weights, through the training loop, to the last checkpoint.

Order matters: build the weights, create the optimizer's slots, restore, broadcast, and only then serve actors. Not
here: the loop (mlma/learning/training_loop.py), several learners on one machine (mlma/distributed/mpi_launcher.py).
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading

import tensorflow as tf

from mlma.core.config import Config
from mlma.core.record_layout import trajectory_layout
from mlma.core.types import Agent, EnvSpec, MakeAgent
from mlma.distributed.allreduce import Allreduce
from mlma.distributed.hang_detector import HangDetector
from mlma.learning.run_state import RunState, build_learner
from mlma.learning.training_loop import FATAL_ERRORS, SampleWaiter, Surroundings, training_loop
from mlma.monitoring.console import ConsoleDisplay, print_error
from mlma.monitoring.heartbeat import Heartbeat
from mlma.roles import learner_telemetry
from mlma.roles.learner_data import LearnerData, make_data_buffer, start_receiver
from mlma.roles.learner_server import start_server
from mlma.roles.local_actors import LocalActors, ServingLearner
from mlma.roles.stop_signal import StopSignal
from mlma.transport.listening import Listening

logger = logging.getLogger(__name__)

ENDING_SECONDS = 3600.0  # without a heartbeat, for the last checkpoint and the evaluation of the last weights


class TrainingSession:
    """The parts of one learner while it trains."""

    def __init__(
        self,
        config: Config,
        spec: EnvSpec,
        make_agent: MakeAgent,
        allreduce: Allreduce,
        display: ConsoleDisplay,
        listening: Listening,
        token: str,
        actors: LocalActors | None,
    ) -> None:
        """Builds everything, restores the run if there is a checkpoint, and starts to serve actors."""
        self.config, self.allreduce, self.listening = config, allreduce, listening
        self.is_first = allreduce.rank == 0
        self._trains = False  # until then there is nothing to save but what was restored
        learner_telemetry.start_logging(config, allreduce, display)
        agent: Agent = make_agent(config, spec)
        self.learner = build_learner(config, spec, agent, allreduce)
        self.state = RunState(config, self.learner, allreduce)
        self.state.resume()
        # Several learners end a step together, or not at all.
        self.stop = StopSignal(self._leave_during_step if allreduce.size == 1 else None)
        self._display, self._ending = display, threading.Lock()
        frames = self.learner.frames
        is_complete = self.is_trained()  # then no actor has anything to do
        listeners = learner_telemetry.make_run_loggers(config, display, frames) if self.is_first else []
        if self.is_first:
            learner_telemetry.log_start(config, spec, self.learner, allreduce.size, self.state.seconds)
        self.metrics = learner_telemetry.make_metrics(config, allreduce, listeners)
        self.timer = self.metrics.timer
        layout, fail = trajectory_layout(spec, agent, config.learner.unroll_length), self.stop.fail
        buffer, snapshot = make_data_buffer(config, agent, layout, allreduce)
        server = start_server(
            config,
            spec,
            make_agent,
            layout,
            self.learner,
            allreduce,
            self.state.seeds,
            self.metrics,
            fail,
            listening,
            token,
        )
        receiver = start_receiver(
            config, spec, layout, allreduce, self.metrics, server, buffer, fail, lambda: self.learner.step
        )
        self.data = LearnerData(server, receiver, buffer, snapshot)
        learner_telemetry.register_gauges(self.metrics, buffer, receiver)
        self.actors = None if is_complete else actors
        if actors:
            self._serve(actors)
        if self.is_first:
            learner_telemetry.add_periodic_tasks(config, self.metrics, self.timer, receiver, frames, self.save)
        timeout = config.distributed.hang_timeout_seconds
        HangDetector(allreduce, timeout, lambda: self.timer.current, on_hang=self.save)

    def _serve(self, actors: LocalActors) -> None:
        if not self.actors:  # the run is complete
            return actors.stop()
        restarted, stop = functools.partial(self.metrics.count_fault, "actors_restarted"), self.stop
        actors.serve(ServingLearner(self.listening.server, restarted, lambda: stop.requested, stop.fail))

    def is_trained(self) -> bool:
        """Whether the learner has seen all frames of the run."""
        return bool(self.learner.frames >= self.config.run.total_environment_frames)

    def save(self) -> bool:
        """Saves a checkpoint, on the first rank, and the replay of every rank."""
        with self._ending:  # two threads must not write the same file
            self.data.snapshot.save()
            return self.state.save(self.metrics) if self.is_first else True

    def train(self, heartbeat: Heartbeat) -> bool:
        """Runs the training loop and ends the session; whether the last checkpoint was saved."""
        config, distributed = self.config, self.config.distributed
        num_actors = config.actor.num_actors if self.actors else "no" if config.run.task < 0 else "remote"
        logger.info("logdir %s; learner at %s; %s actors", config.run.logdir, self.listening.shown, num_actors)
        silent_actors = functools.partial(
            self.data.receiver.silent_actors, config.actor.num_actors, distributed.sample_timeout_seconds
        )
        learner_telemetry.serve_metrics(config, heartbeat, self.metrics, self.is_first)
        waiter = SampleWaiter(config, self.allreduce.size == 1, silent_actors, heartbeat)
        publish = self.data.server.publish
        surroundings = Surroundings(self.metrics, self.timer, heartbeat, self.stop, publish, self.save)
        self.metrics.begin(self.learner.step, self.learner.frames, self.state.seconds)
        saved, together, self._trains = False, False, True
        with self.stop.working():
            try:
                self._prepare()
                training_loop(config, self.learner, self.data.buffer, waiter, surroundings)
                together = True  # all ranks end here, unless one has failed
            except FATAL_ERRORS as failure:
                self.stop.failure = failure
            finally:
                with self._ending:  # unless the process is ending in the middle of a step
                    self.stop.left.set()
                heartbeat.waiting_for("the end of the run", ENDING_SECONDS)
                with self.timer.phase("end"):
                    saved = self.save()
                    # Not after a failure or a stop on request: the learner may come back, and needs its actors then.
                    is_over = together and self.is_trained() and self._saved_by_all(saved)
                    self.data.close(0 if self.actors else len(self.data.receiver.last_seen), is_over)
                    if self.actors:
                        self.actors.stop()
                    self.metrics.close(finished=self.is_trained())
        return saved

    def _prepare(self) -> None:
        """Builds the graph of the update while the first actors start; the others would delay both."""
        if not self.is_trained() and (example := self.data.buffer.example()) is not None:
            with self.timer.phase("train"):
                self.learner.prepare(example)
        if self.actors:
            self.actors.start_all()

    def _saved_by_all(self, saved: bool) -> bool:
        """Whether all ranks `saved` what they have to save. All of them have to call it."""
        return all(map(int, self.allreduce.gather(b"1" if saved else b"0")))

    def _leave_during_step(self) -> None:
        """Saves the weights before a learner step that takes long, and ends the process. In a thread of its own."""
        with self._ending:
            if self.stop.left.is_set() or not self._trains:  # a run that starts ends before its first step
                return
            logger.info("a learner step takes long: leaving it, with the weights before it")
            saved = self.state.save(self.metrics, during_step=True)
            if self.actors:
                self.actors.stop()
            self.data.snapshot.wait()
            self.metrics.close(finished=False)
            self._display.__exit__(None, None, None)
            if saved:
                learner_telemetry.log_end(self.config, self.learner.frames)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0 if saved else 1)


def run_session(
    config: Config,
    spec: EnvSpec,
    make_agent: MakeAgent,
    allreduce: Allreduce,
    listening: Listening,
    token: str,
    heartbeat: Heartbeat,
    actors: LocalActors | None,
) -> int:
    """Trains; the exit code of the process."""
    if config.run.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(config.run.seed)  # equal on all ranks
    _check_level_coverage(config, spec, allreduce.size)
    with learner_telemetry.make_display(config, allreduce.size) as display:
        session = TrainingSession(config, spec, make_agent, allreduce, display, listening, token, actors)
        saved = session.train(heartbeat)
    learner, failure = session.learner, session.stop.failure
    steps, frames = f"{learner.step:,}", f"{learner.frames:,}"
    logger.info("ended after %s learner steps and %s frames; weights %08x", steps, frames, learner.checksum())
    if failure:
        reason = f"{type(failure).__name__}: {failure}"
        print_error(f"{reason}; the last good weights are in {config.run.logdir}/checkpoints")
    elif session.is_first and saved:
        learner_telemetry.log_end(config, learner.frames)
        if session.is_trained():
            heartbeat.training_is_over()
    if not session.stop.broken:  # then the other ranks may not be here
        allreduce.shutdown()
    return 1 if failure or not saved else 0


def _check_level_coverage(config: Config, spec: EnvSpec, num_learners: int) -> None:
    """ValueError if no environment would be left for some level."""
    num_actors, envs_per_actor = num_learners * config.actor.num_actors, config.actor.envs_per_actor
    num_levels, num_envs = len(spec.actions_by_level), num_actors * envs_per_actor
    if num_envs < num_levels:
        raise ValueError(
            f"--envs_per_actor={envs_per_actor}: {num_actors} actors with this many environments have {num_envs}; "
            f"{num_levels} levels need at least one each"
        )
