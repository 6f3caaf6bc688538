"""One frontend at a time changes a run: a lock in LOGDIR/cluster, which the kernel releases when its holder ends.

On a network file system it also holds against frontends on other machines. Not here: what a host does with requests of
two frontends (mlma/cluster/on_host/host_agent.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mlma.cluster.state import check_state_folder
from mlma.utils.own_files import open_own
from mlma.utils.user_text import printable, shown

CHANGING_COMMANDS = ("up", "scale", "restart", "down")
NAMING_SECONDS = 1.0  # for the holder of the lock to write who it is


class RunIsLockedError(Exception):
    """Another frontend changes the run; in one line."""


@contextlib.contextmanager
def frontend_lock(command: str, logdir: str) -> Iterator[None]:
    """Holds the lock of the run if the command changes it. A logdir without a run stays as it was."""
    if command in CHANGING_COMMANDS and (command == "up" or (Path(logdir) / "cluster").is_dir()):
        with run_lock(command, logdir):
            yield
    else:
        yield


@contextlib.contextmanager
def run_lock(command: str, logdir: str) -> Iterator[None]:
    """Holds the lock of the run. RunIsLockedError if another process has it, ValueError if there cannot be one."""
    folder = Path(logdir).absolute() / "cluster"
    check_state_folder(folder, f"--logdir={logdir}")
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _acquire(folder / "lock", command, logdir)
    except OSError as error:
        raise ValueError(f"--logdir={shown(logdir)}: {printable(str(folder))}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.truncate(0)
        if not (folder / "run.json").exists():
            (folder / "lock").unlink(missing_ok=True)
            for path in made:
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
        lock.close()


def _acquire(path: Path, command: str, logdir: str) -> BinaryIO:
    """The locked file, with its holder in it; RunIsLockedError if another process has it."""
    while True:
        lock = open_own(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with lock:
                raise RunIsLockedError(f"--logdir={shown(logdir)}: {_holder(path)}; wait for it, or end it") from None
        except OSError as error:
            note = f"note: {path}: no locks on this file system ({error.strerror}); run one frontend at a time"
            print(note, file=sys.stderr)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                break
        lock.close()  # its holder removed the file after it was opened here
    lock.truncate(0)
    lock.write(json.dumps({"command": command, "pid": os.getpid(), "host": platform.node()}).encode())
    return lock


def _holder(path: Path) -> str:
    """Who has the lock, in words."""
    end = time.monotonic() + NAMING_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            values = json.loads(path.read_bytes())
            where = f"process {values['pid']} on {values['host']}"
            return printable(f"`{values['command']}` is at work on this run: {where}")
        time.sleep(0.02)
    return "another frontend is at work on this run"
