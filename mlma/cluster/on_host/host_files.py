"""Files and processes of a host, for the frontend's helper (mlma/cluster/on_host/host_agent.py): JSON records, logs,
authorized_keys, processes of a run.

Needs only Python 3.8 or later and its standard library.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LOCK = "lock"  # in the run's folder
TAIL_BYTES = 16384  # of a log that are read
CHECK_LINE = re.compile(
    r" mlma-mlma-[0-9a-f]{16}-\d+(?:-(\d+))?$"
)  # of `check`, with the time until which it may be there


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, or None if it is missing or incomplete."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def write_file(path: Path, text: str, mode: int) -> None:
    """Writes atomically, with `mode` from the start."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(folder: Path, seconds: float) -> Iterator[None]:
    """Holds the lock of a folder, which may not exist yet; RuntimeError if another request has it for so long.

    A frontend that was interrupted leaves a request at work, which must not end what the next one starts.
    """
    end = time.monotonic() + seconds
    lock = _open_locked(folder)
    while lock is None:
        if time.monotonic() > end:
            raise RuntimeError("an earlier request is still being carried out on this host; try again in a moment")
        time.sleep(0.05)
        lock = _open_locked(folder)
    with lock:
        yield


def _open_locked(folder: Path) -> IO[str] | None:
    """The locked file of the folder, which is made if it does not exist; None if another request has it."""
    with contextlib.suppress(FileNotFoundError):  # another request has just removed the folder
        for parent in (*reversed(list(folder.parents)[:2]), folder):
            parent.mkdir(mode=0o700, exist_ok=True)
        lock = (folder / LOCK).open("w")
        if _lock(lock) and os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / LOCK)):
            return lock
        lock.close()
    return None


def _lock(file: IO[str]) -> bool:
    """Locks the file if nobody else has; also true on a file system without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def boot_id() -> str:
    """Id of the host's current boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_alive(record: dict[str, Any]) -> bool:
    """Whether the supervisor that wrote this record is running; a later process with its id does not count."""
    try:
        fields = Path(f"/proc/{record['pid']}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and fields[19] == record.get("start_time")


def send_signal(pid: int, number: int) -> bool:
    """False if there is no such process."""
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def processes_of_run(run_id: str) -> list[int]:
    """Processes of this account that the run started, directly or indirectly."""
    mark, pids = f"MLMA_RUN={run_id}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == os.getuid() and mark in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
        except OSError:
            continue
    return pids


def authorize(mark: str, lines: list[str]) -> None:
    """Replaces the lines with this mark in authorized_keys. Those that a lost `check` left go, too; all others stay."""
    path = Path(os.path.realpath(".ssh/authorized_keys"))
    path.parent.mkdir(mode=0o700, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    with contextlib.suppress(
        OSError
    ):  # hosts may share a home and get requests at once; some file systems have no locks
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        before = path.read_text() if path.exists() else ""
        kept = [
            line
            for line in before.splitlines(True)
            if not line.rstrip().endswith(f" mlma-{mark}") and not is_left_by_check(line)
        ]
        if kept and not kept[-1].endswith("\n"):
            kept[-1] += "\n"
        after = "".join(kept) + "".join(f"{line} mlma-{mark}\n" for line in lines)
        if after.rstrip("\n") != before.rstrip("\n"):
            write_file(path, after, 0o600)
    finally:
        os.close(folder)


def is_left_by_check(line: str) -> bool:
    """Whether a line of authorized_keys is one that a `check` should have removed by now."""
    match = CHECK_LINE.search(line.rstrip())
    return match is not None and int(match[1] or 0) < time.time()


def read_tail(path: Path, size: int) -> tuple[str, int]:
    """The last `size` bytes of a file as text, and the offset of its end; ("", 0) if it is missing."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read().decode(errors="replace"), end
    except OSError:
        return "", 0


def last_rows(logdir: str, count: int) -> list[dict[str, float]]:
    """The last rows of metrics.csv, each with its column "age", the seconds since the last report."""
    path = Path(logdir) / "metrics.csv"
    if not logdir or not path.exists():
        return []
    with path.open(newline="") as file:
        header = next(csv.reader([file.readline()]), [])
    rows = []
    for line in read_tail(path, TAIL_BYTES)[0].splitlines()[-count:]:
        row = {"age": time.time() - path.stat().st_mtime}
        for name, text in zip(header, next(csv.reader([line]), [])):  # noqa: B905  # `strict` needs Python 3.10
            with contextlib.suppress(ValueError):
                row[name] = float(text or "nan")
        if "frames" in row:  # otherwise it is the header
            rows.append(row)
    return rows
