"""A worker process of mlma/envs/processes.py: steps its environments in turn when told to, until nobody is left to tell."""

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

from mlma import local
from mlma.config import Config
from mlma.envs.processes import DONE, RESET, arrays
from mlma.envs.singles import InTurn, Single, layout
from mlma.types import TimeStep


def work(task: dict[str, Any]) -> None:
    channel = socket.socket(fileno=task["socket"])
    suite, config = importlib.import_module(task["suite"]), Config(**task["config"])
    start, stop = task["start"], task["stop"]
    singles: list[Single] = [suite.single(task["level_name"], config, task["evaluation"]) for _ in range(start, stop)]
    size = os.fstat(task["memory"]).st_size
    view, actions = arrays(mmap.mmap(task["memory"], size), layout(singles[0].spec), task["envs"])
    more = {name: field[start:stop] for name, field in view.more.items()}
    fields: list[Any] = [*(field[start:stop] for field in view[:-1]), more]
    mine = TimeStep(*fields)
    env = InTurn(singles, task["seed"], task["sticky"], mine)
    while command := channel.recv(1):
        env.reset() if command == RESET else env.step(actions[start:stop])
        channel.sendall(DONE)
    env.close()


def main() -> None:
    local.die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        work(json.load(sys.stdin))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the actor is gone
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # no waiting for what the environment has started
    os._exit(0)


if __name__ == "__main__":
    main()
