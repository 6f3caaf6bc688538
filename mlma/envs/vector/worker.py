"""A worker of mlma/envs/vector/multiprocess.py: steps environments on command until its parent closes the socket."""

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
from mlma.envs.vector.multiprocess import DONE, EXIT_ERROR, RESET, shared_arrays
from mlma.envs.vector.sequential import SingleEnv, SyncVectorEnv, map_timestep
from mlma.utils.child_process import setup_child_process


def run_worker(task: dict[str, Any]) -> None:
    """Steps environments `start` to `stop` of the parent. `task` is described in `WorkerProcess.start`."""
    channel = socket.socket(fileno=task["socket"])
    suite, settings = importlib.import_module(task["suite"]), EnvironmentConfig(**task["settings"])
    rows = slice(task["start"], task["stop"])
    singles: list[SingleEnv] = [
        suite.make_single(task["level_name"], settings, task["evaluation"]) for _ in range(rows.start, rows.stop)
    ]
    memory = mmap.mmap(task["memory"], os.fstat(task["memory"]).st_size)
    timestep, actions = shared_arrays(memory, singles[0].spec, task["num_envs"])
    env = SyncVectorEnv(singles, task["seed"], task["sticky"], map_timestep(lambda array: array[rows], timestep))
    while command := channel.recv(1):
        env.reset() if command == RESET else env.step(actions[rows])
        channel.sendall(DONE)
    env.close()


def main() -> None:
    """Reads the task from standard input. Exits without waiting for threads or processes that environments started."""
    setup_child_process()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        run_worker(json.load(sys.stdin))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent has ended
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(EXIT_ERROR)
    os._exit(0)


if __name__ == "__main__":
    main()
