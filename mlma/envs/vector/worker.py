"""A worker process of mlma/envs/vector/multiprocess.py: steps its environments in turn when told to, until nobody is left to tell."""

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
from mlma.core.types import TimeStep
from mlma.envs.vector.multiprocess import DONE, RESET, shared_arrays
from mlma.envs.vector.sequential import SingleEnv, SyncVectorEnv, timestep_layout
from mlma.utils.child_process import setup_child_process


def run_worker(task: dict[str, Any]) -> None:
    channel = socket.socket(fileno=task["socket"])
    suite, config = importlib.import_module(task["suite"]), EnvironmentConfig(**task["config"])
    start, stop = task["start"], task["stop"]
    singles: list[SingleEnv] = [suite.make_single(task["level_name"], config, task["evaluation"]) for _ in range(start, stop)]
    size = os.fstat(task["memory"]).st_size
    view, actions = shared_arrays(mmap.mmap(task["memory"], size), timestep_layout(singles[0].spec), task["envs"])
    more = {name: field[start:stop] for name, field in view.extras.items()}
    fields: list[Any] = [*(field[start:stop] for field in view[:-1]), more]
    mine = TimeStep(*fields)
    env = SyncVectorEnv(singles, task["seed"], task["sticky"], mine)
    while command := channel.recv(1):
        env.reset() if command == RESET else env.step(actions[start:stop])
        channel.sendall(DONE)
    env.close()


def main() -> None:
    setup_child_process()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        run_worker(json.load(sys.stdin))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the actor is gone
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # no waiting for what the environment has started
    os._exit(0)


if __name__ == "__main__":
    main()
