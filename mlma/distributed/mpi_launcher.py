"""Starts several learners on this machine with mpirun, and restarts them when they fail.

mpirun is a child that ends with this process; restarted learners resume from their last checkpoint. Learners that all
hang are killed, which counts as a failure. Learners on several hosts are started by hand or by the frontend. Imports
nothing heavy. Not here: communication between learners (mlma/distributed/allreduce.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mlma.core.config import Config, to_argv
from mlma.distributed.learner_watch import LearnerWatch
from mlma.utils.child_process import (
    EXIT_HUNG,
    EXIT_USAGE,
    HEARTBEAT_ENV,
    STOP_SIGNAL,
    die_with_parent,
    started_by_mpirun,
)
from mlma.utils.code_layout import setup_hint

NO_PORTS = "^tcp"  # of Open MPI's transports: learners of one host use shared memory, and need no network
RESTART_SECONDS = 2.0  # seconds before learners that failed are restarted
WATCH_SECONDS = 1.0  # between two looks at the learners' heartbeats


def must_launch(config: Config) -> bool:
    """Whether this process has to start the learners, rather than be one of them."""
    return config.distributed.num_learners > 1 and config.run.task < 0 and not started_by_mpirun()


def find_mpirun() -> str:
    """The mpirun of this Python environment; ValueError in one line if there is none."""
    path = Path(sys.executable).parent / "mpirun"
    if not path.exists():
        raise ValueError(
            f"--num_learners: several learners need mpirun, but {path} does not exist; "
            f"install it with: {setup_hint('install-learner')}"
        )
    return str(path)


def mpi_environment() -> dict[str, str]:
    """The environment of mpirun, with Open MPI's settings for one machine, under the names of versions 4 and 5."""
    variables = dict(os.environ)
    if os.geteuid() == 0:
        variables |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        variables |= {"PRTE_ALLOW_RUN_AS_ROOT": "1", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    variables.setdefault("OMPI_MCA_btl", NO_PORTS)
    return variables | {"OMPI_MCA_mpi_yield_when_idle": "1"}  # waiting learners leave their core to actors


def mpirun_command(config: Config) -> list[str]:
    """The command that starts all learners of this configuration."""
    return [
        find_mpirun(),
        *("-np", str(config.distributed.num_learners), "--oversubscribe", "--bind-to", "none"),
        sys.executable,
        str(Path(sys.argv[0]).resolve()),
        *to_argv(config.replace(max_restarts=0)),
    ]


def supervise_learners(config: Config) -> int:
    """Runs mpirun until it succeeds, a signal stops it, or it has failed too often. Returns its exit code."""
    command = mpirun_command(config)
    signals: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        signals.append(number)
        if children:
            children[-1].send_signal(STOP_SIGNAL if len(signals) == 1 else signal.SIGKILL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    max_restarts = config.distributed.max_restarts
    for attempt in range(max_restarts + 1):
        with _heartbeat_folder(config) as folder:
            mpirun = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env=mpi_environment() | {HEARTBEAT_ENV: str(folder)},
                preexec_fn=die_with_parent,
                start_new_session=True,  # a terminal sends Ctrl-C to its whole group; mpirun would kill the learners
            )
            children.append(mpirun)
            distributed = config.distributed
            code = _wait(mpirun, LearnerWatch(folder, distributed.num_learners, distributed.hang_timeout_seconds))
        if code in (0, EXIT_USAGE) or signals:
            break
        print(
            f"the learners ended with code {code}; restarts left: {max_restarts - attempt} (--max_restarts)", flush=True
        )
        if attempt < max_restarts:
            time.sleep(RESTART_SECONDS)
    return code if code >= 0 else 128 - code


def _wait(mpirun: subprocess.Popen[bytes], watch: LearnerWatch) -> int:
    """Waits for the learners, and kills them if all of them hang; their exit code."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return mpirun.wait(timeout=WATCH_SECONDS)
        if hung := watch.find_hung():
            print(f"{hung}; ending the run (--hang_timeout_seconds)", flush=True)
            mpirun.kill()  # the learners end with it, and their actors with them
            mpirun.wait()
            return EXIT_HUNG


@contextlib.contextmanager
def _heartbeat_folder(config: Config) -> Iterator[Path]:
    """The folder of the flag, or a private one for this attempt."""
    if config.distributed.heartbeat_folder:
        yield Path(config.distributed.heartbeat_folder)
        return
    with tempfile.TemporaryDirectory(prefix="mlma-heartbeats-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
