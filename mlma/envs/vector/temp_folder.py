"""Folders for temporary files that are removed however their process ends.

A process of a run has one as its TMPDIR, which its children share: simulators such as DeepMind Lab leave files behind
unless they are closed, and TensorFlow's autograph and sockets unless Python exits. Each worker with a simulator has a
folder in it. A shell that waits for the end of the process removes it; if that was killed too, the next process that
makes one does. A lock tells folders in use from leftovers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from mlma.utils.own_files import RUN_FOLDER_PREFIX

# Reads the pipe, of which only the owner has the other end, until it is gone; then processes that the kernel ends with
# it may still write for a moment.
WAIT_AND_REMOVE = (
    'trap "" HUP INT TERM USR1 USR2; read -r _; n=0; while [ -e "$1" ] && [ $n -lt 50 ]; '
    'do rm -rf -- "$1"; n=$((n+1)); [ -e "$1" ] && sleep 0.1; done'
)


class OwnFolder:
    """A locked folder that ends with this process."""

    def __init__(self) -> None:
        sweep()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=RUN_FOLDER_PREFIX))
            if (lock := _lock(self.path)) is not None:
                break  # else another process took it for a leftover before it was locked
        self._lock = lock
        read_end, self._write_end = os.pipe()
        with open(read_end, "rb") as stdin:
            self._remover = subprocess.Popen(
                ["/bin/sh", "-c", WAIT_AND_REMOVE, "mlma-remover", str(self.path)],
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath)},  # neither secrets nor what marks a run's processes
                start_new_session=True,  # signals to the group of this process do not reach it
            )

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._write_end)
        os.close(self._lock)
        self._remover.wait()


def _lock(path: Path) -> int | None:
    """The descriptor of the lock on a folder; None if another process has it, or the folder is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def sweep() -> None:
    """Removes the folders of processes that have ended."""
    for path in Path(tempfile.gettempdir()).glob(f"{RUN_FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.getuid() and (lock := _lock(path)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


_own: OwnFolder | None = None
_users = 0


def use_for_this_process() -> None:
    """Makes a folder the TMPDIR of this process and its children, until it ends, unless its parent has done so."""
    global _own, _users
    with contextlib.suppress(OSError):  # a full disk: whatever cannot do without a file says so
        if not Path(tempfile.gettempdir()).name.startswith(RUN_FOLDER_PREFIX):
            _own, _users = OwnFolder(), 1
            os.environ["TMPDIR"] = tempfile.tempdir = str(_own.path)


def acquire() -> Path:
    """A new folder in that of this process, for one worker. Not for several threads at once."""
    global _own, _users
    if _own is None:
        _own = OwnFolder()
    _users += 1
    return Path(tempfile.mkdtemp(dir=_own.path))


def release(folder: Path) -> None:
    """Removes a worker's folder after the worker has ended."""
    global _own, _users
    shutil.rmtree(folder, ignore_errors=True)
    _users -= 1
    if _own is not None and not _users:
        _own.close()
        _own = None
