"""The folder of a run: checked, locked against a second run, and cleared of what killed processes left behind.

The lock is the kernel's (flock on LOGDIR/.lock), held by the first learner for its lifetime. It ends with the process,
however that ends, so a restart never has to remove anything. Evaluations take no lock. Not here: the rules for
ownership (mlma/utils/own_files.py). docs/decisions/0017-files-of-a-run.md has the reasons.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from mlma.core.config import Config
from mlma.distributed.world import World
from mlma.utils.atomic_file import check_writable
from mlma.utils.own_files import (
    SHORT_TEMP_FOLDER,
    SOCKET_FOLDER_PREFIX,
    SOCKET_LOCK,
    check_own_folder,
    open_own,
    write_all,
)

LOCK_NAME = ".lock"
LOCK_SECONDS = 3.0  # for the process that holds the lock, to end
DYING_SECONDS = 60.0  # the same for one that was killed but waits for a disk; a restart must not be refused for it
TEMPORARY_FILE = re.compile(
    r"\.(checkpoint-\d+\.npz|best\.npz|replay-\d+\.bin|metrics\.csv|curve\.csv|workers\.json"
    r"|config(?:-until-\d+)?\.json|sessions\.json|trace\.json|wandb_run|mlflow_run|trackio_run)\.(\d+)"
)
SOCKET_FOLDER = re.compile(SOCKET_FOLDER_PREFIX + "[a-z0-9_]{8}")  # as tempfile.mkdtemp makes it
OLD_SECONDS = 3600.0  # age of files in the folder for temporary files, whose owner is not in their name
_locks: list[BinaryIO] = []  # open, and so locked, until the process ends


def check_run_folder(config: Config, entries: bool = True) -> Path:
    """Creates --logdir if it does not exist. ValueError in one line if it is not the caller's, or not writable."""
    folder = Path(config.run.logdir)
    check_own_folder(folder, f"--logdir={folder}", entries)
    check_writable(folder, "--logdir")
    return folder


def claim_run_folder(config: Config) -> None:
    """Prepares --logdir for this learner. ValueError in one line if it is not the caller's, or another run has it."""
    is_first = World.from_environment().rank == 0
    folder, flag = check_run_folder(config, entries=is_first), f"--logdir={config.run.logdir}"
    if is_first:
        _lock(folder, flag)
        _sweep_run_folder(folder)
        for temporary in {Path(tempfile.gettempdir()), SHORT_TEMP_FOLDER}:
            _sweep_temporary_folder(temporary)


def _lock(folder: Path, flag: str) -> None:
    path = folder / LOCK_NAME
    try:
        file = open_own(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            _warn(f"{flag}: cannot be locked: {problem.strerror}; make sure that no other run uses it")
            return
        raise ValueError(f"{flag}: cannot be locked: {path}: {problem.strerror}") from None
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() - began > (DYING_SECONDS if _is_dying(_holder(file)) else LOCK_SECONDS):
                raise ValueError(f"{flag}: {_describe_holder(file)} trains there; allowed: another --logdir") from None
            time.sleep(0.1)
        except OSError as problem:  # a file system without locks
            _warn(f"{flag}: cannot be locked: {problem.strerror}; make sure that no other run uses it")
            break
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with contextlib.suppress(OSError):  # on a full disk the lock holds, too
        file.truncate(0)
        file.seek(0)
        write_all(file, json.dumps(holder).encode() + b"\n")
    _locks.append(file)


def _holder(file: BinaryIO) -> tuple[int, str, str]:
    """Process, host and start of the run that holds the lock; (0, "", "") if it could not write them."""
    try:
        file.seek(0)
        holder = json.loads(file.read(1000))
        return int(holder["pid"]), str(holder["host"]), str(holder["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, "", ""


def _describe_holder(file: BinaryIO) -> str:
    pid, host, since = _holder(file)
    return f"process {pid} on {host} (since {since})" if pid else "another process"


def _is_dying(holder: tuple[int, str, str]) -> bool:
    """Whether this process of this host was killed, and is only still there because a system call takes long."""
    pid, host, _ = holder
    if not pid or host != socket.gethostname():
        return False
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    pending = int(status.get("SigPnd", "0"), 16) | int(status.get("ShdPnd", "0"), 16)
    return status.get("State", "")[:1] in ("Z", "X") or bool(pending >> (signal.SIGKILL - 1) & 1)


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


def _sweep_run_folder(folder: Path) -> None:
    """Removes temporary files of killed saves. With the lock held, their processes can only run on this host."""
    for path in [*_entries(folder), *_entries(folder / "checkpoints"), *_entries(folder / "profile")]:
        match = TEMPORARY_FILE.fullmatch(path.name)
        if match and not _is_alive(int(match[2])) and _is_own(path):
            _remove(path)


def _sweep_temporary_folder(folder: Path) -> None:
    """Removes sockets of dead learners, and files of TensorFlow's autograph of dead processes, both of this user."""
    for path in _entries(folder):
        if SOCKET_FOLDER.fullmatch(path.name) and _is_own(path) and _is_dead_socket_folder(path):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith("__autograph_generated_file") and _is_own(path) and _is_orphan(path):
            _remove(path)


def _is_dead_socket_folder(folder: Path) -> bool:
    """Whether the learner of this folder is gone: nobody holds its lock, or, in an old one, nobody listens."""
    names = {path.name for path in _entries(folder)}
    if not names <= {"learner", SOCKET_LOCK} or not folder.is_dir() or folder.is_symlink():
        return False
    if SOCKET_LOCK not in names:
        return _age(folder) > OLD_SECONDS and not _listens(folder / "learner")
    try:
        with open_own(folder / SOCKET_LOCK, os.O_RDWR) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _age(folder) > LOCK_SECONDS  # a learner that starts takes the lock soon after it made the folder
    except OSError:
        return False


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # cannot tell
    return True


def _is_orphan(path: Path) -> bool:
    """Whether no process of this user that has TensorFlow loaded is old enough to have written the file."""
    return _age(path) > OLD_SECONDS and path.stat().st_mtime < _oldest_tensorflow_process()


def _oldest_tensorflow_process() -> float:
    """When the oldest other process of this user with TensorFlow was started; infinite if there is none."""
    oldest = float("inf")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.geteuid() and "tensorflow" in (process / "maps").read_text(errors="replace"):
                oldest = min(oldest, process.stat().st_mtime)
        except OSError:
            continue
    return oldest


def _is_alive(pid: int) -> bool:
    return pid != os.getpid() and Path(f"/proc/{pid}").exists()


def _is_own(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.geteuid()
    except OSError:
        return False


def _age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
