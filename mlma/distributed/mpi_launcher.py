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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

from mlma.core.config import Config, to_argv
from mlma.distributed.learner_watch import LearnerWatch
from mlma.utils.child_process import (
    EXIT_HUNG,
    EXIT_USAGE,
    HEARTBEAT_ENV,
    LAUNCHER_SHOWS_ENV,
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


class LearnersConsole(Protocol):
    """Shows the learners on a terminal: mlma/roles/learners_console.py."""

    def follow(self, output: IO[bytes]) -> contextlib.AbstractContextManager[None]:
        """Shows the lines of `output`, and the reports of the run, until the end of the context."""
        ...

    def show(self, line: str) -> None:
        """Shows a line."""
        ...


def supervise_learners(config: Config, console: LearnersConsole | None = None) -> int:
    """Runs mpirun until it succeeds, a signal stops it, or it has failed too often. Returns its exit code.

    Without a `console`, learners write to the standard output of this process themselves.
    """
    command, show = mpirun_command(config), console.show if console else _print
    signals: list[int] = []
    forwarded: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        signals.append(number)
        if children:  # else it comes while they are started
            forwarded.append(number)
            children[-1].send_signal(STOP_SIGNAL if len(forwarded) == 1 else signal.SIGKILL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    max_restarts = config.distributed.max_restarts
    for attempt in range(max_restarts + 1):
        with _heartbeat_folder(config) as folder:
            mpirun = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if console else None,
                stderr=subprocess.STDOUT if console else None,
                env=mpi_environment() | {HEARTBEAT_ENV: str(folder)} | ({LAUNCHER_SHOWS_ENV: "1"} if console else {}),
                preexec_fn=die_with_parent,
                start_new_session=True,  # a terminal sends Ctrl-C to its whole group; mpirun would kill the learners
            )
            children.append(mpirun)
            if signals and not forwarded:
                forward(signals.pop(), None)
            distributed = config.distributed
            watch = LearnerWatch(folder, distributed.num_learners, distributed.hang_timeout_seconds)
            with console.follow(mpirun.stdout) if console and mpirun.stdout else contextlib.nullcontext():
                code = _wait(mpirun, watch, show)
            children.clear()
        if code in (0, EXIT_USAGE) or signals:
            break
        show(f"the learners ended with code {code}; restarts left: {max_restarts - attempt} (--max_restarts)")
        if attempt < max_restarts:
            time.sleep(RESTART_SECONDS)
        if signals:
            break
    return code if code >= 0 else 128 - code


def _print(line: str) -> None:
    print(line, flush=True)


def _wait(mpirun: subprocess.Popen[bytes], watch: LearnerWatch, show: Callable[[str], None]) -> int:
    """Waits for the learners, and kills them if all of them hang; their exit code."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return mpirun.wait(timeout=WATCH_SECONDS)
        if hung := watch.find_hung():
            show(f"{hung}; ending the run (--hang_timeout_seconds)")
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
