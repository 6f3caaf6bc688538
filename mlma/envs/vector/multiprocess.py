"""Environments in worker processes, for those that are slow, hold the GIL or may crash; data is in shared memory.

The shared memory has no name and the workers end with this process, so nothing is left over however it ends. A worker
that crashes or hangs is replaced: its environments start new episodes, and `crashed` marks them. Not here: the worker's
side (mlma/envs/vector/worker.py), the environments (mlma.envs.vector.sequential.SingleEnv).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import mmap
import os
import socket
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np

from mlma.core.actions import action_spec
from mlma.core.config import EnvironmentConfig
from mlma.core.types import EnvSpec, TimeStep
from mlma.envs.failures import WINDOW_SECONDS, SimulatorLostError
from mlma.envs.vector import temp_folder
from mlma.envs.vector.sequential import copy_timestep, timestep_layout
from mlma.envs.vector.worker_output import WorkerOutput
from mlma.utils.child_process import PARENT_PID_ENV

logger = logging.getLogger(__name__)

RESET, STEP, DONE = b"r", b"s", b"d"
MAX_START_ATTEMPTS = 3  # workers in a row that fail before this process gives up
EXIT_SECONDS = 5.0  # for a worker that closed its socket to exit, so that its exit code is known
EXIT_ERROR = 1  # exit code of a worker whose environment raised
CLOSE_SECONDS = 0.5  # for a worker to end before it is killed
NUM_COUNTS = 2  # of an environment, int64 each: hits and misses of the level cache
COUNTS_BYTES = 8 * NUM_COUNTS


class WorkerTraits(NamedTuple):
    """What the workers of a suite need in addition."""

    own_temp_folder: bool = False  # its simulator leaves files in TMPDIR if it is killed
    quiet: bool = False  # what they print is only shown if they fail


NO_TRAITS = WorkerTraits()


class WorkerLostError(Exception):
    """An environment worker died or did not answer."""


class SubprocessVectorEnv:
    """See mlma.core.types.VectorEnv. Environments are split evenly, in order, among the workers."""

    def __init__(
        self,
        suite: str,
        level_name: str,
        spec: EnvSpec,
        num_envs: int,
        num_workers: int,
        seed: int,
        settings: EnvironmentConfig,
        evaluation: bool,
        sticky: float,
        traits: WorkerTraits = NO_TRAITS,
    ) -> None:
        """`suite` is the name of the module that has `make_single`."""
        self.spec, self.num_envs, self._level_name = spec, num_envs, level_name
        self.crashed = np.zeros(num_envs, bool)
        self._max_errors, self._errors = settings.max_env_errors, list[float]()  # when workers ended with an error
        self._timeout = settings.env_timeout_seconds
        size = num_envs * (timestep_layout(spec).dtype.itemsize + _action_dtype(spec).itemsize + COUNTS_BYTES)
        self._file = os.memfd_create("mlma-environments")
        os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)
        self._timestep, self._actions, self._counts = shared_arrays(self._memory, spec, num_envs)
        self._counts_of_lost = np.zeros(NUM_COUNTS, np.int64)  # workers
        self._began = self._answered = 0.0  # when the environments were first reset, and last reset or stepped
        self._steps = 0
        task = {
            "suite": suite,
            "level_name": level_name,
            "num_envs": num_envs,
            "sticky": sticky,
            "evaluation": evaluation,
        }
        task["settings"] = dataclasses.asdict(settings)
        num_workers = max(1, min(num_workers, num_envs))
        bounds = [num_envs * n // num_workers for n in range(num_workers + 1)]
        self._workers = [WorkerProcess(task, self._file, seed, *rows, traits) for rows in itertools.pairwise(bounds)]

    def reset(self) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        self.send(None)
        return self.receive()

    def step(self, action: Any) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        self.send(action)
        return self.receive()

    def send(self, action: Any) -> None:
        """The first half of `step`, or of `reset` if `action` is None. The caller can work until it calls `receive`."""
        self.crashed[:] = False
        if action is not None:
            self._actions[:] = action
            self._steps += 1
        for worker in self._workers:
            worker.send(RESET if action is None else STEP)

    def receive(self) -> TimeStep:
        """The second half of `step` or `reset`. SimulatorLostError if a worker cannot be replaced."""
        for worker in self._workers:
            try:
                worker.wait(self._timeout)
            except WorkerLostError as error:
                words = worker.last_lines()
                logger.warning("environment %s: %s; starting a new worker%s", worker.env_range(), error, words)
                self.crashed[worker.rows] = True
                self._count_error(worker, words)
                self._replace(worker)
        self._answered = time.monotonic()
        self._began = self._began or self._answered
        return copy_timestep(self._timestep)

    def _count_error(self, worker: WorkerProcess, words: str) -> None:
        """SimulatorLostError if workers have ended too often with code 1, as Python and simulators do."""
        if worker.process.poll() != EXIT_ERROR or not self._max_errors:
            return
        now = time.monotonic()
        self._errors = [when for when in self._errors if now - when < WINDOW_SECONDS] + [now]
        if len(self._errors) >= self._max_errors:
            problem = f"{len(self._errors)} errors of environments (--max_env_errors){words}"
            raise SimulatorLostError(self._level_name, problem, self._steps, now - worker.started)

    def _replace(self, worker: WorkerProcess) -> None:
        self._counts_of_lost += self._counts[worker.rows].sum(axis=0)
        for attempt in range(MAX_START_ATTEMPTS):
            worker.close()
            self._counts[worker.rows] = 0
            worker.start()
            worker.send(RESET)
            try:
                return worker.wait(self._timeout)
            except WorkerLostError as error:
                if attempt + 1 == MAX_START_ATTEMPTS:
                    problem = f"{error}; {MAX_START_ATTEMPTS} workers in a row failed{worker.last_lines()}"
                    # Not the time for which a simulator was started again, or did not answer.
                    seconds = self._answered - self._began
                    raise SimulatorLostError(self._level_name, problem, self._steps, seconds) from None

    def level_cache_counts(self) -> Any:
        """Hits and misses of the level cache so far: int64 [2]."""
        return self._counts_of_lost + self._counts.sum(axis=0)

    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Ends all workers, which close their environments in parallel."""
        for worker in self._workers:
            worker.request_stop()
        for worker in self._workers:
            worker.close()
        os.close(self._file)


class WorkerProcess:
    """One child process; `rows` are the indices of its environments."""

    def __init__(
        self, task: dict[str, Any], memory: int, seed: int, start: int, stop: int, traits: WorkerTraits
    ) -> None:
        self._task, self._memory, self._seed, self._traits = task, memory, seed, traits
        self.rows = slice(start, stop)
        self._num_starts = 0
        self.start()

    def start(self) -> None:
        """Starts a process and sends its task as JSON: suite, level, settings, seed, rows, and two file descriptors."""
        own_end, worker_end = socket.socketpair()
        # A new seed for each process: the episodes that crashed the previous one might crash again.
        seed = self._seed + self.rows.start + self._num_starts * self._task["num_envs"]
        self._num_starts += 1
        self.started = time.monotonic()
        task = self._task | {"seed": seed, "start": self.rows.start, "stop": self.rows.stop, "memory": self._memory}
        task["socket"] = worker_end.fileno()
        environment = {PARENT_PID_ENV: str(os.getpid()), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._folder = temp_folder.acquire() if self._traits.own_temp_folder else None
        if self._folder:
            environment["TMPDIR"] = str(self._folder)
        with worker_end:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "mlma.envs.vector.worker"],  # what it prints before a crash is not lost
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(self._memory, worker_end.fileno()),
                env=os.environ | environment,
            )
        assert self.process.stdin
        assert self.process.stdout
        self._output = WorkerOutput(self.process.stdout, self._traits.quiet)
        with contextlib.suppress(BrokenPipeError):  # it has ended already; `wait` reports that
            self.process.stdin.write(json.dumps(task).encode())
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self._socket = own_end

    def env_range(self) -> str:
        """Its environments for messages: "3" or "0 to 3"."""
        first, last = self.rows.start, self.rows.stop - 1
        return f"{first}" if first == last else f"{first} to {last}"

    def send(self, command: bytes) -> None:
        """Sends RESET or STEP."""
        with contextlib.suppress(OSError):  # `wait` reports it
            self._socket.sendall(command)

    def wait(self, seconds: float) -> None:
        """Waits until the last command was executed. WorkerLostError after `seconds`, or if the process has ended."""
        self._socket.settimeout(seconds)
        try:
            answer = self._socket.recv(1)
        except TimeoutError:
            raise WorkerLostError(f"no answer for {seconds:g} s (--env_timeout_seconds)") from None
        except OSError:
            answer = b""
        if answer != DONE:
            try:
                code = self.process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                code = None
            raise WorkerLostError(f"worker ended with code {code}")

    def last_lines(self) -> str:
        """What the process printed last, for the end of a message. It is killed if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        return self._output.last_lines()

    def request_stop(self) -> None:
        """Closes the socket, on which the process ends by itself."""
        self._socket.close()

    def close(self) -> None:
        """Waits for the process to end, and kills it if it does not; processes that it started end with it."""
        self.request_stop()
        try:
            self.process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self._folder:
            temp_folder.release(self._folder)
            self._folder = None


def shared_arrays(memory: Any, spec: EnvSpec, num_envs: int) -> tuple[TimeStep, Any, Any]:
    """Views of the shared memory: the time step [E, ...], the actions [E, ...] and the counts [E, NUM_COUNTS]."""
    layout, action = timestep_layout(spec), _action_dtype(spec)
    # The counts are last: their place need not be aligned.
    actions_at = num_envs * layout.dtype.itemsize
    counts_at = actions_at + num_envs * action.itemsize
    records = np.frombuffer(memory, layout.dtype, num_envs)
    actions = np.frombuffer(memory, action, num_envs, offset=actions_at)
    counts = np.frombuffer(memory, np.int64, num_envs * NUM_COUNTS, offset=counts_at)
    return layout.view(records), actions, counts.reshape(num_envs, NUM_COUNTS)


def _action_dtype(spec: EnvSpec) -> Any:
    """The numpy type of an action, of several numbers if it is a vector."""
    action = action_spec(spec)
    return np.dtype((action.dtype, action.shape))
