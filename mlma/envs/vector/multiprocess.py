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
from typing import Any

import numpy as np

from mlma.core.actions import action_spec
from mlma.core.config import EnvironmentConfig
from mlma.core.types import EnvSpec, TimeStep
from mlma.envs.failures import WINDOW_SECONDS
from mlma.envs.vector.sequential import copy_timestep, timestep_layout
from mlma.utils.child_process import PARENT_PID_ENV

logger = logging.getLogger(__name__)

RESET, STEP, DONE = b"r", b"s", b"d"
MAX_START_ATTEMPTS = 3  # workers in a row that fail before this process gives up
EXIT_SECONDS = 5.0  # for a worker that closed its socket to exit, so that its exit code is known
EXIT_ERROR = 1  # exit code of a worker whose environment raised
CLOSE_SECONDS = 0.5  # for a worker to end before it is killed


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
    ) -> None:
        """`suite` is the name of the module that has `make_single`."""
        self.spec, self.num_envs = spec, num_envs
        self.crashed = np.zeros(num_envs, bool)
        self._max_errors, self._errors = settings.max_env_errors, list[float]()  # when workers ended with an error
        self._timeout = settings.env_timeout_seconds
        size = num_envs * (timestep_layout(spec).dtype.itemsize + _action_dtype(spec).itemsize)
        self._file = os.memfd_create("mlma-environments")
        os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)
        self._timestep, self._actions = shared_arrays(self._memory, spec, num_envs)
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
        self._workers = [WorkerProcess(task, self._file, seed, *rows) for rows in itertools.pairwise(bounds)]

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
        for worker in self._workers:
            worker.send(RESET if action is None else STEP)

    def receive(self) -> TimeStep:
        """The second half of `step` or `reset`. RuntimeError if a worker cannot be replaced."""
        for worker in self._workers:
            try:
                worker.wait(self._timeout)
            except WorkerLostError as error:
                logger.warning("environment %s: %s; starting a new worker", worker.env_range(), error)
                self.crashed[worker.rows] = True
                self._count_error(worker)
                self._replace(worker)
        return copy_timestep(self._timestep)

    def _count_error(self, worker: WorkerProcess) -> None:
        """RuntimeError if workers have ended too often with an error of Python's, which their log shows."""
        if worker.process.poll() != EXIT_ERROR or not self._max_errors:
            return
        now = time.monotonic()
        self._errors = [when for when in self._errors if now - when < WINDOW_SECONDS] + [now]
        if len(self._errors) >= self._max_errors:
            raise RuntimeError(f"{len(self._errors)} errors of environments (--max_env_errors)")

    def _replace(self, worker: WorkerProcess) -> None:
        for attempt in range(MAX_START_ATTEMPTS):
            worker.close()
            worker.start()
            worker.send(RESET)
            try:
                return worker.wait(self._timeout)
            except WorkerLostError as error:
                if attempt + 1 == MAX_START_ATTEMPTS:
                    raise RuntimeError(
                        f"environment {worker.env_range()}: {error}; {MAX_START_ATTEMPTS} workers in a row failed"
                    ) from None

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

    def __init__(self, task: dict[str, Any], memory: int, seed: int, start: int, stop: int) -> None:
        self._task, self._memory, self._seed = task, memory, seed
        self.rows = slice(start, stop)
        self._num_starts = 0
        self.start()

    def start(self) -> None:
        """Starts a process and sends its task as JSON: suite, level, settings, seed, rows, and two file descriptors."""
        own_end, worker_end = socket.socketpair()
        # A new seed for each process: the episodes that crashed the previous one might crash again.
        seed = self._seed + self.rows.start + self._num_starts * self._task["num_envs"]
        self._num_starts += 1
        task = self._task | {"seed": seed, "start": self.rows.start, "stop": self.rows.stop, "memory": self._memory}
        task["socket"] = worker_end.fileno()
        with worker_end:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlma.envs.vector.worker"],
                stdin=subprocess.PIPE,
                pass_fds=(self._memory, worker_end.fileno()),
                env=os.environ
                | {PARENT_PID_ENV: str(os.getpid()), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        assert self.process.stdin
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


def shared_arrays(memory: Any, spec: EnvSpec, num_envs: int) -> tuple[TimeStep, Any]:
    """Views of the shared memory: the time step [E, ...] and the actions [E, ...]."""
    layout = timestep_layout(spec)
    records = np.frombuffer(memory, layout.dtype, num_envs)
    return layout.view(records), np.frombuffer(
        memory, _action_dtype(spec), num_envs, offset=num_envs * layout.dtype.itemsize
    )


def _action_dtype(spec: EnvSpec) -> Any:
    """The numpy type of an action, of several numbers if it is a vector."""
    action = action_spec(spec)
    return np.dtype((action.dtype, action.shape))
