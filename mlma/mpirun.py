"""mpirun: what it tells the learners that it started, and starting it on this machine.

Here it is a child that is ended with this process and started again when it fails; the learners resume from their last
checkpoint. Learners on several hosts are started by hand or by the frontend. Not here: what learners say to each other
(mlma/allreduce.py). Imports nothing heavy.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mlma import config as flags
from mlma.config import Config

CLEAN_STOP = signal.SIGUSR1  # mpirun passes it on and waits; after SIGTERM, Open MPI 5 kills its children within half a second
RESTART = 2.0  # seconds before learners that failed are started again
PR_SET_PDEATHSIG = 1
HUNG = 3  # exit code of a learner that gives up waiting for the others
MISTAKE = 2  # exit code of wrong flags: starting again does not help


class World(NamedTuple):
    """This process among those that mpirun started; alone if none did."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1  # how many of them are on this host

    @classmethod
    def here(cls) -> World:
        defaults = cls()
        return cls(*(int(os.environ.get(f"OMPI_COMM_WORLD_{n.upper()}", getattr(defaults, n))) for n in cls._fields))


def started_by_mpirun() -> bool:
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def find() -> str:
    """The mpirun of this environment; ValueError in one line if there is none."""
    path = Path(sys.executable).parent / "mpirun"
    if not path.exists():
        raise ValueError(
            f"--num_learners: several learners need mpirun, and {path} does not exist; install it with: make install"
        )
    return str(path)


def environment() -> dict[str, str]:
    """For mpirun: what Open MPI must know on one machine, under the names of its versions."""
    found = dict(os.environ)
    if os.geteuid() == 0:
        found |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        found |= {"PRTE_ALLOW_RUN_AS_ROOT": "1", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return found | {"OMPI_MCA_mpi_yield_when_idle": "1"}  # waiting learners leave their core to actors


def command(config: Config) -> list[str]:
    words = flags.to_argv(replace(config, max_restarts=0))
    return [
        find(),
        *("-np", str(config.num_learners), "--oversubscribe", "--bind-to", "none"),
        sys.executable,
        str(Path(sys.argv[0]).resolve()),
        *words,
    ]


def tie_to_parent() -> None:
    """The kernel ends this process when the one that started it is gone."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def supervise(config: Config, say: Callable[[str], None]) -> int:
    """Runs mpirun until it succeeds, is told to end, or has failed too often; its exit code."""
    words = command(config)
    told: list[int] = []
    child: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        told.append(number)
        if child:
            child[-1].send_signal(CLEAN_STOP if len(told) == 1 else signal.SIGKILL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    for attempt in range(config.max_restarts + 1):
        child.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment(), preexec_fn=tie_to_parent))
        code = child[-1].wait()
        if code == 0 or code == MISTAKE or told:
            return code if code >= 0 else 128 - code
        say(f"the learners ended with code {code}; restarts left: {config.max_restarts - attempt} (--max_restarts)")
        if attempt < config.max_restarts:
            time.sleep(RESTART)
    return code if code >= 0 else 128 - code
