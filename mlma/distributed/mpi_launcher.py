"""mpirun: what it tells the learners that it started, and starting it on this machine.

Here it is a child that is ended with this process and started again when it fails; the learners resume from their last
checkpoint. Learners on several hosts are started by hand or by the frontend. Not here: what learners say to each other
(mlma/distributed/allreduce.py). Imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlma.core.config.config import Config, to_argv
from mlma.utils.child_process import EXIT_USAGE, STOP_SIGNAL, die_with_parent

RESTART_SECONDS = 2.0  # seconds before learners that failed are started again


def find_mpirun() -> str:
    """The mpirun of this environment; ValueError in one line if there is none."""
    path = Path(sys.executable).parent / "mpirun"
    if not path.exists():
        raise ValueError(
            f"--num_learners: several learners need mpirun, and {path} does not exist; install it with: make install"
        )
    return str(path)


def mpi_environment() -> dict[str, str]:
    """For mpirun: what Open MPI must know on one machine, under the names of its versions."""
    found = dict(os.environ)
    if os.geteuid() == 0:
        found |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        found |= {"PRTE_ALLOW_RUN_AS_ROOT": "1", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return found | {"OMPI_MCA_mpi_yield_when_idle": "1"}  # waiting learners leave their core to actors


def mpirun_command(config: Config) -> list[str]:
    words = to_argv(replace(config, max_restarts=0))
    return [
        find_mpirun(),
        *("-np", str(config.num_learners), "--oversubscribe", "--bind-to", "none"),
        sys.executable,
        str(Path(sys.argv[0]).resolve()),
        *words,
    ]


def supervise_learners(config: Config, say: Callable[[str], None]) -> int:
    """Runs mpirun until it succeeds, is told to end, or has failed too often; its exit code."""
    words = mpirun_command(config)
    told: list[int] = []
    child: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        told.append(number)
        if child:
            child[-1].send_signal(STOP_SIGNAL if len(told) == 1 else signal.SIGKILL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    for attempt in range(config.max_restarts + 1):
        child.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, env=mpi_environment(), preexec_fn=die_with_parent))
        code = child[-1].wait()
        if code == 0 or code == EXIT_USAGE or told:
            return code if code >= 0 else 128 - code
        say(f"the learners ended with code {code}; restarts left: {config.max_restarts - attempt} (--max_restarts)")
        if attempt < config.max_restarts:
            time.sleep(RESTART_SECONDS)
    return code if code >= 0 else 128 - code
