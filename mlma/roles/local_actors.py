"""Actors of local training: child processes that end with this one, and are restarted when they crash.

As many as a single learner leaves cores for start before it imports TensorFlow, and do so meanwhile. An actor reads the
learner's address from standard input once that serves. Each child asks the kernel to end it when its parent ends, so no
orphan is left even after kill -9. Not here: remote workers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mlma.core.config import Config, to_argv
from mlma.distributed.world import World
from mlma.envs.failures import FailureCounter, LoggedFailure, find_failures
from mlma.envs.vector.multiprocess import MAX_START_ATTEMPTS
from mlma.transport.addresses import FROM_PARENT
from mlma.utils.child_process import EXIT_USAGE, PARENT_PID_ENV, available_cores
from mlma.utils.own_files import make_own_folder, open_own
from mlma.utils.side_task import SideTask

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.2  # between two looks at the actors
RESTART_BACKOFF_SECONDS = (1.0, 60.0)  # before a crashed actor is restarted: first, longest
HEALTHY_SECONDS = 60.0  # of running, after which the next restart is quick again
LOG_END_BYTES = 32_768  # of an actor's log, in which its last words are looked for
LAST_LINE = "; its last line: "
TERMINATE_SECONDS = 5.0  # for an actor to end before it is killed


class ServingLearner(NamedTuple):
    """The learner of the actors once it serves them."""

    address: str
    on_restart: Callable[[], None]
    is_stopping: Callable[[], bool]
    on_failure: Callable[[BaseException], None]  # also called after too many equal errors of environments


class LocalActors:
    """Starts actors, and keeps them running from `serve` to `stop`. One thread, since the kernel ties a child to its
    thread."""

    def __init__(
        self,
        command: Callable[[int], list[str]],
        count: int,
        num_early: int,
        log_folder: Path,
        max_env_errors: int = 0,
        env_timeout_seconds: float = 0.0,
    ) -> None:
        """Starts `num_early` of `count` actors at once, the others at `start_all`.

        The learner fails after `max_env_errors` equal errors of environments; 0 is no limit.
        """
        self._failures = FailureCounter(max_env_errors, (1 + MAX_START_ATTEMPTS) * env_timeout_seconds)
        self._log_starts: dict[int, int] = {}  # actor -> size of its log when it was started
        self._command, self._count, self._num_early, self._log_folder = command, count, num_early, log_folder
        self._learner: ServingLearner | None = None
        self._failure: BaseException | None = None  # of the thread
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._start_all, self._stopping, self._wake = False, False, threading.Event()
        self._log_task, self._start_task = SideTask("the log of an actor"), SideTask("starting an actor")
        self._thread = threading.Thread(target=self._run, name="local-actors", daemon=True)
        self._thread.start()

    def pids(self) -> list[int]:
        """The process ids of the actors that run now."""
        return [child.pid for child in self._children.values()]

    def serve(self, learner: ServingLearner) -> None:
        """Lets the actors connect, and restarts those that have crashed."""
        self._learner = learner
        self._wake.set()
        if self._failure:
            learner.on_failure(self._failure)

    def start_all(self) -> None:
        """Starts the actors that have not been started: the learner has nothing to do but to wait for them."""
        self._start_all = True
        self._wake.set()

    def stop(self) -> None:
        """Ends all actors and waits for that."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as error:  # a thread must not end silently
            self._failure = error
            if self._learner:
                self._learner.on_failure(error)
            raise

    def _watch(self) -> None:
        due = dict.fromkeys(range(self._count), 0.0)  # actor -> when to start it
        pause = dict.fromkeys(range(self._count), RESTART_BACKOFF_SECONDS[0])
        started: dict[int, float] = {}
        while not self._stopping:
            now, learner = time.monotonic(), self._learner
            for task, child in list(self._children.items()) if learner else ():
                assert learner
                _send_address(child, learner.address)
                if (code := child.poll()) is None:
                    continue
                del self._children[task]
                if code == 0 or learner.is_stopping():
                    continue  # training is over, or the same signal reached actor and learner
                if now - started[task] > HEALTHY_SECONDS:
                    pause[task] = RESTART_BACKOFF_SECONDS[0]
                learner.on_restart()
                log = self._log_end(task)
                if problem := self._too_many(log, code):
                    learner.on_failure(problem)
                    continue
                logger.warning(
                    "actor %d ended with code %d; restarting it in %.0f s%s", task, code, pause[task], last_line(log)
                )
                due[task], pause[task] = now + pause[task], min(2 * pause[task], RESTART_BACKOFF_SECONDS[1])
            for task in [t for t, when in due.items() if when <= now and (self._start_all or t < self._num_early)]:
                new = self._start_task(self._start, task)
                if new is None:  # no memory, no process or no descriptor left
                    due[task], pause[task] = now + pause[task], min(2 * pause[task], RESTART_BACKOFF_SECONDS[1])
                    continue
                del due[task]
                started[task], self._children[task] = now, new
            self._wake.wait(CHECK_SECONDS)
            self._wake.clear()
        self._end_children()

    def _end_children(self) -> None:
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            try:
                child.wait(TERMINATE_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _log(self, task: int) -> Path:
        return self._log_folder / f"actor-{task}.log"

    def _start(self, task: int) -> subprocess.Popen[bytes]:
        environment = os.environ | {PARENT_PID_ENV: str(os.getpid())}
        with contextlib.ExitStack() as stack:
            log = self._log_task(self._open_log, task)  # an actor works without its log, too
            output = stack.enter_context(log) if log else subprocess.DEVNULL
            return subprocess.Popen(
                self._command(task), stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment
            )

    def _open_log(self, task: int) -> BinaryIO:
        make_own_folder(self._log_folder)
        log = open_own(self._log(task), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._log_starts[task] = os.fstat(log.fileno()).st_size
        return log

    def _log_end(self, task: int) -> str:
        """The end of what the actor has written to its log."""
        try:
            with open_own(self._log(task), os.O_RDONLY) as log:
                size = os.fstat(log.fileno()).st_size
                log.seek(max(0, self._log_starts.get(task, 0), size - LOG_END_BYTES))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _too_many(self, log: str, code: int) -> BaseException | None:
        """What ends the run, if an actor has ended once too often for the same reason."""
        failures = find_failures(log)
        if not failures and code == EXIT_USAGE:  # its environment cannot be opened, for example
            failures = [LoggedFailure(last_line(log).removeprefix(LAST_LINE), "")]
        problems = [self._failures.add(failure) for failure in failures]
        return next((problem for problem in problems if problem), None)


def last_line(log: str) -> str:
    """The last line of a log, for the end of a message."""
    lines = log.strip().splitlines()
    return f"{LAST_LINE}{lines[-1]}" if lines else ""


def _send_address(child: subprocess.Popen[bytes], address: str) -> None:
    """Tells an actor, once, where its learner is."""
    assert child.stdin
    if not child.stdin.closed:
        with contextlib.suppress(BrokenPipeError), child.stdin:  # it may have ended
            child.stdin.write(f"{address}\n".encode())


def start_local_actors(config: Config) -> LocalActors | None:
    """The actors of this learner, which wait for its address; None without local training."""
    if config.run.task >= 0:
        return None
    rank, size, *_ = World.from_environment()
    # More would delay the learner, and thus the first step. Several learners may still be ended by mpirun, because one
    # of them cannot start, so they have no children before they serve.
    num_early = max(1, available_cores() - 1) if size == 1 else 0
    # Several learners on one host have actors of the same numbers, which must not want the same ports.
    port = config.reports.metrics_port and config.reports.metrics_port + rank * config.actor.num_actors
    for_actor = {"job_name": "actor", "task": 0, "learner_host": FROM_PARENT}
    flags = to_argv(config.replace(**for_actor, heartbeat_folder="", metrics_port=port))
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), *flags]
    logdir = Path(config.run.logdir)
    return LocalActors(
        lambda task: [*command, f"--task={task}"],
        config.actor.num_actors,
        num_early,
        logdir / f"learner-{rank}" if rank else logdir,
        config.environment.max_env_errors,
        config.environment.env_timeout_seconds,
    )
