"""Child processes: ended by the kernel when their parent ends; exit codes and signals shared by launchers and workers."""

from __future__ import annotations

import ctypes
import os
import signal

from mlma.distributed.world import started_by_mpirun

PARENT_PID_ENV = "MLMA_PARENT"  # environment variable with the parent's process id


def setup_child_process() -> None:
    """Called first thing in a process that may be a child: of a learner, or of mpirun."""
    parent = os.environ.get(PARENT_PID_ENV)
    if parent:
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends us in its own time
        if os.getppid() != int(parent):  # it died before we asked
            os._exit(1)
    elif started_by_mpirun():
        die_with_parent()


STOP_SIGNAL = signal.SIGUSR1  # mpirun passes it on and waits; after SIGTERM, Open MPI 5 kills its children within half a second
PR_SET_PDEATHSIG = 1
EXIT_HUNG = 3  # exit code of a learner that gives up waiting for the others
EXIT_USAGE = 2  # exit code of wrong flags: starting again does not help


def die_with_parent() -> None:
    """The kernel ends this process when the one that started it is gone."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
