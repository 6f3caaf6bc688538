"""Environments in worker processes: what is slow, or keeps Python's lock, or may crash. Observations come by shared memory.

The memory has no name and the workers are tied to this process, so that nothing is left of them however it ends. A worker that
dies or does not answer is replaced, its environments begin anew, and `lost` tells which those are. Not here: their end of it
(mlma/envs/vector/worker.py), and what they step (mlma.envs.vector.sequential.SingleEnv).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import mmap
import os
import socket
import subprocess
import sys
from typing import Any

import numpy as np

from mlma.core.config import EnvironmentConfig
from mlma.core.types import EnvSpec, TimeStep
from mlma.envs.vector.sequential import copy_timestep, timestep_layout
from mlma.utils.child_process import PARENT_PID_ENV

RESET, STEP, DONE = b"r", b"s", b"d"
MAX_START_ATTEMPTS = 3  # workers in a row that come to nothing before we give up


class WorkerLostError(Exception):
    """An environment worker died or did not answer."""


class SubprocessVectorEnv:
    """See mlma.core.types.VectorEnv. Environment i is stepped by worker i * workers // E."""

    def __init__(
        self,
        suite: str,
        level_name: str,
        spec: EnvSpec,
        num_envs: int,
        workers: int,
        seed: int,
        config: EnvironmentConfig,
        evaluation: bool,
        sticky: float,
    ) -> None:
        """`suite` is the module that has `single`."""
        self.spec, self.num_envs = spec, num_envs
        self.crashed = np.zeros(num_envs, bool)
        self._seconds = config.env_timeout_seconds
        lay = timestep_layout(spec)
        size = num_envs * (lay.dtype.itemsize + 4)
        self._file = os.memfd_create("mlma-environments")
        os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)
        self._into, self._actions = shared_arrays(self._memory, lay, num_envs)
        task = {"suite": suite, "level_name": level_name, "envs": num_envs, "sticky": sticky, "evaluation": evaluation}
        task["config"] = dataclasses.asdict(config)
        workers = max(1, min(workers, num_envs))
        bounds = [num_envs * n // workers for n in range(workers + 1)]
        self._workers = [WorkerProcess(task, self._file, seed, *rows) for rows in itertools.pairwise(bounds)]

    def reset(self) -> TimeStep:
        self.send(None)
        return self.receive()

    def step(self, action: Any) -> TimeStep:
        self.send(action)
        return self.receive()

    def send(self, action: Any) -> None:
        """The first half of `step`, or of `reset` without an action: others may be sent to before `receive`."""
        self.crashed[:] = False
        if action is not None:
            self._actions[:] = action
        for worker in self._workers:
            worker.send(RESET if action is None else STEP)

    def receive(self) -> TimeStep:
        for worker in self._workers:
            try:
                worker.wait(self._seconds)
            except WorkerLostError as problem:
                print(f"environment {self.spec_name(worker)}: {problem}; it begins anew", file=sys.stderr, flush=True)
                self.crashed[worker.rows] = True
                self._replace(worker)
        return copy_timestep(self._into)

    def spec_name(self, worker: WorkerProcess) -> str:
        rows = worker.rows
        return f"{rows.start}" if rows.stop == rows.start + 1 else f"{rows.start} to {rows.stop - 1}"

    def _replace(self, worker: WorkerProcess) -> None:
        for turn in range(MAX_START_ATTEMPTS):
            worker.end()
            worker.begin()
            worker.send(RESET)
            try:
                return worker.wait(self._seconds)
            except WorkerLostError as problem:
                if turn + 1 == MAX_START_ATTEMPTS:
                    raise RuntimeError(
                        f"environment {self.spec_name(worker)}: {problem}; {MAX_START_ATTEMPTS} workers in a row came to nothing"
                    ) from None

    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        for worker in self._workers:
            worker.leave()
        for worker in self._workers:
            worker.end()
        os.close(self._file)


class WorkerProcess:
    """One child process, and which environments are its own."""

    def __init__(self, task: dict[str, Any], memory: int, seed: int, start: int, stop: int) -> None:
        self._task, self._memory, self._seed = task, memory, seed
        self.rows = slice(start, stop)
        self._lives = 0
        self.begin()

    def begin(self) -> None:
        ours, theirs = socket.socketpair()
        # New games in each life: what made the last one crash may do so again.
        seed = self._seed + self.rows.start + self._lives * self._task["envs"]
        self._lives += 1
        task = self._task | {"seed": seed, "start": self.rows.start, "stop": self.rows.stop, "memory": self._memory}
        task["socket"] = theirs.fileno()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlma.envs.vector.worker"],
                stdin=subprocess.PIPE,
                pass_fds=(self._memory, theirs.fileno()),
                env=os.environ | {PARENT_PID_ENV: str(os.getpid()), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it may be gone already; `wait` tells
            self.process.stdin.write(json.dumps(task).encode())
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self._socket = ours

    def send(self, command: bytes) -> None:
        with contextlib.suppress(OSError):  # `wait` tells
            self._socket.sendall(command)

    def wait(self, seconds: float) -> None:
        """Until it has done what it was told. WorkerLost if that never comes."""
        self._socket.settimeout(seconds)
        try:
            answer = self._socket.recv(1)
        except TimeoutError:
            raise WorkerLostError(f"no answer for {seconds:g} s (--env_timeout_seconds)") from None
        except OSError:
            answer = b""
        if answer != DONE:
            try:
                code = self.process.wait(5)
            except subprocess.TimeoutExpired:
                code = None
            raise WorkerLostError(f"its worker ended with code {code}")

    def leave(self) -> None:
        """Tells it to end."""
        self._socket.close()

    def end(self) -> None:
        """At its own wish; else by force, which ends what it has started, too."""
        self.leave()
        try:
            self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def shared_arrays(memory: Any, lay: Any, num_envs: int) -> tuple[TimeStep, Any]:
    """The time step [E, ...] and the actions [E] that lie in the shared memory."""
    records = np.frombuffer(memory, lay.dtype, num_envs)
    return lay.view(records), np.frombuffer(memory, np.int32, num_envs, offset=num_envs * lay.dtype.itemsize)
