"""What parent and child processes share: ending together, exit codes, the stop signal, the cores of this process."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

PARENT_PID_ENV = "MLMA_PARENT"  # environment variable with the parent's process id
HEARTBEAT_ENV = "MLMA_HEARTBEATS"  # environment variable: folder for the heartbeats of learners without that flag
LAUNCHER_SHOWS_ENV = "MLMA_LAUNCHER_SHOWS"  # environment variable: whoever started the learners shows their reports
PR_SET_PDEATHSIG = 1
# mpirun forwards it and waits. After SIGTERM, Open MPI 5 kills its children within half a second.
STOP_SIGNAL = signal.SIGUSR1
EXIT_USAGE = 2  # exit code for wrong flags or files: a restart does not help
EXIT_HUNG = 3  # exit code of a learner that gives up waiting for the others
EXIT_ENVIRONMENT = 4  # exit code of an actor, or of test mode, whose environments failed after they had worked


def started_by_mpirun() -> bool:
    """Whether Open MPI's mpirun started this process, or a parent of it."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def available_cores() -> int:
    """The cores of this host for each learner on it."""
    return max(1, len(os.sched_getaffinity(0)) // local_learners())


def local_learners() -> int:
    """The learners that mpirun has started on this host; 1 without mpirun."""
    return int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))


def die_with_parent() -> None:
    """Asks the kernel to end this process when its parent is gone."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def setup_child_process() -> None:
    """Called first in every process that may be a child of a learner or of mpirun: no orphan survives its parent."""
    if parent := os.environ.get(PARENT_PID_ENV):
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its children
        if os.getppid() != int(parent):  # the parent ended before the call above
            os._exit(1)
    elif started_by_mpirun():
        die_with_parent()


def process_start_time(pid: int) -> str:
    """Start time in kernel ticks, to tell a process apart from a later one with the same id; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def is_stopped(pid: int) -> bool:
    """Whether a signal such as SIGSTOP has stopped this process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
