"""A worker of mlma/envs/vector/multiprocess.py: steps environments on command until its parent closes the socket.

SIGTERM ends it, too. In either case it closes its environments.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import signal
import socket
import sys
import traceback
from typing import Any

from mlma.core.config import EnvironmentConfig
from mlma.envs.failures import EnvironmentFailedError
from mlma.envs.vector.multiprocess import DONE, EXIT_ERROR, RESET, shared_arrays
from mlma.envs.vector.sequential import SingleEnv, SyncVectorEnv, map_timestep
from mlma.utils.child_process import setup_child_process


class TerminatedError(BaseException):
    """SIGTERM came. Not an Exception, so that no environment takes it for one of its own."""


def run_worker(task: dict[str, Any]) -> None:
    """Steps environments `start` to `stop` of the parent. `task` is described in `WorkerProcess.start`."""
    channel = socket.socket(fileno=task["socket"])
    singles: list[SingleEnv] = []
    try:
        _open(task, singles)
        _step(task, channel, singles)
    finally:  # the simulators' files and processes go, whatever ended this
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for single in singles:
            single.close()


def _open(task: dict[str, Any], singles: list[SingleEnv]) -> None:
    """Appends the environments to `singles`. EnvironmentFailedError for whatever a simulator raises."""
    suite, settings = importlib.import_module(task["suite"]), EnvironmentConfig(**task["settings"])
    for _ in range(task["start"], task["stop"]):
        try:
            singles.append(suite.make_single(task["level_name"], settings, task["evaluation"]))
        except Exception as error:
            raise EnvironmentFailedError(task["level_name"], "opening it", error, 0, 0.0) from None


def _step(task: dict[str, Any], channel: socket.socket, singles: list[SingleEnv]) -> None:
    rows = slice(task["start"], task["stop"])
    memory = mmap.mmap(task["memory"], os.fstat(task["memory"]).st_size)
    timestep, actions, counts = shared_arrays(memory, singles[0].spec, task["num_envs"])
    env = SyncVectorEnv(singles, task["seed"], task["sticky"], map_timestep(lambda array: array[rows], timestep))
    counted = [(row, one) for row, one in zip(counts[rows], singles, strict=True) if hasattr(one, "level_cache_counts")]
    while command := channel.recv(1):
        env.reset() if command == RESET else env.step(actions[rows])
        for row, single in counted:
            row[:] = single.level_cache_counts()
        channel.sendall(DONE)


def _on_terminate(number: int, frame: Any) -> None:
    raise TerminatedError


def main() -> None:
    """Reads the task from standard input. Exits without waiting for threads or processes that environments started."""
    setup_child_process()
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        run_worker(json.load(sys.stdin))
    except TerminatedError:
        os._exit(128 + signal.SIGTERM)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent has ended
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(EXIT_ERROR)
    os._exit(0)


if __name__ == "__main__":
    main()
