"""Files that only the caller may change: whose folders are trusted, and how files in them are opened.

A run reads commands from its folder and overwrites files there, so the folder must belong to the user who runs it, or
to root. Nothing in it is opened through a link. docs/decisions/0017-files-of-a-run.md has the reasons. Imports nothing
heavy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Environment variable: 1 if nobody else can reach the files, on mounts that invent owners and modes (SMB, EFS).
TRUST_ENV = "MLMA_TRUST_OWNERS"
SOCKET_FOLDER_PREFIX, SOCKET_LOCK = "mlma-", "lock"  # of folders for sockets
MAX_PARENT_CHARACTERS = 78  # of where such a folder is made: sockets have at most 100 (mlma/transport/addresses.py)
SHORT_TEMP_FOLDER = Path("/tmp")  # for sockets if TMPDIR is too long, as that of a job on a cluster may be
RUN_FOLDER_PREFIX = "mlma-run-"  # of folders for temporary files: mlma/envs/vector/temp_folder.py
NEW_FOLDER_MODE = 0o775  # less what umask takes away: nobody else gets to write, whatever umask is


def check_own_folder(folder: Path, name: str, entries: bool = True) -> None:
    """ValueError in one line, which calls the folder `name`, unless it is the caller's; a missing folder is fine.

    Nor may a link on the way to it, or, with `entries`, a link or folder in it, belong to another user.
    """
    for part in (*reversed(folder.absolute().parents), folder.absolute()):
        found = _lstat(part)
        if found and stat.S_ISLNK(found.st_mode) and not _is_trusted(found):
            raise ValueError(f"{name}: the link {part} belongs to {_user(found)}; must belong to {_owners()}")
    try:
        found = folder.stat()
    except OSError:
        return  # missing, or not readable: that is another message
    if not _is_trusted(found):
        raise ValueError(f"{name}: belongs to {_user(found)}; must belong to {_owners()}")
    if _writable_by_all(found):
        raise ValueError(f"{name}: every user can write to it; allowed after: chmod o-w {folder}")
    if entries and stat.S_ISDIR(found.st_mode):
        _check_entries(folder, name)


def _check_entries(folder: Path, name: str) -> None:
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return
    for path in paths:
        found = _lstat(path)
        if found and not stat.S_ISREG(found.st_mode) and not _is_trusted(found):
            raise ValueError(f"{name}: {path.name} in it belongs to {_user(found)}; must belong to {_owners()}")


def check_own_file(path: Path, name: str) -> None:
    """ValueError in one line unless the file, and a link to it, belong to the caller or root, and few others may write.

    A missing file is fine. Group members may write: with umask 002 every file is like that, in a group of its own.
    """
    for found in (_lstat(path), _lstat(path.resolve())):
        if found and not _is_trusted(found):
            raise ValueError(f"{name}: belongs to {_user(found)}; copy it and look at it first")
        if found and not stat.S_ISLNK(found.st_mode) and _writable_by_all(found):
            raise ValueError(f"{name}: every user can write to it; allowed after: chmod o-w {path}")


def make_own_folder(folder: Path) -> None:
    """Creates the folder and its parents if they do not exist; OSError if a link of another user is in its place."""
    folder.mkdir(mode=NEW_FOLDER_MODE, parents=True, exist_ok=True)
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode) and not _is_trusted(found):
        raise OSError(errno.ELOOP, f"is a link that belongs to {_user(found)}", str(folder))


def open_own(path: Path, flags: int, mode: int = 0o666) -> BinaryIO:
    """Opens a regular file without buffer, and never through a link; OSError for anything else, such as a pipe."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a link, which is not followed", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    access = flags & os.O_ACCMODE
    return os.fdopen(descriptor, "r+b" if access == os.O_RDWR else "wb" if access == os.O_WRONLY else "rb", buffering=0)


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder that only this user can open, for a socket; locked while this process lives, removed at the end.

    A learner that starts removes those whose lock nobody holds (mlma/roles/run_folder.py).
    """
    try:
        folder = _new_socket_folder()
    except OSError as problem:
        raise ValueError(f"TMPDIR={tempfile.gettempdir()}: cannot be written to: {problem.strerror}") from None
    try:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # without its lock, the folder counts as one of an earlier version
                lock = stack.enter_context(open_own(folder / SOCKET_LOCK, os.O_RDWR | os.O_CREAT, 0o600))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new_socket_folder() -> Path:
    """A folder with mode 0700. Its path is short where it can be, since those of sockets are limited."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > MAX_PARENT_CHARACTERS:
        parent = SHORT_TEMP_FOLDER
    if not parent.name.startswith(RUN_FOLDER_PREFIX):
        return Path(tempfile.mkdtemp(prefix=SOCKET_FOLDER_PREFIX, dir=parent))
    for number in itertools.count():
        with contextlib.suppress(FileExistsError):
            (parent / f"{number}").mkdir(mode=0o700)
            return parent / f"{number}"
    raise AssertionError


def write_all(file: BinaryIO, data: bytes) -> None:
    """Writes all of `data` to a file without buffer, which may take it in parts."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def append_lines(path: Path, data: bytes) -> None:
    """Appends whole lines, or nothing and OSError: a full disk leaves no part of a line. Removes what a crash left."""
    with open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
        size = _end_of_last_line(file)
        try:
            write_all(file, data)
        except BaseException:
            os.ftruncate(file.fileno(), size)
            raise


def _end_of_last_line(file: BinaryIO) -> int:
    """The size of the file, after a last line without an end has been cut off."""
    size = end = os.fstat(file.fileno()).st_size
    while end:
        start = max(0, end - 4096)
        block = os.pread(file.fileno(), end - start, start)
        if (found := block.rfind(b"\n")) >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(file.fileno(), end)
    return end


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _is_trusted(found: os.stat_result) -> bool:
    return found.st_uid in (os.geteuid(), 0) or os.environ.get(TRUST_ENV) == "1"


def _writable_by_all(found: os.stat_result) -> bool:
    """Whether any user can replace it, or, for a folder, what is in it; the sticky bit prevents that."""
    if os.environ.get(TRUST_ENV) == "1":
        return False
    return bool(found.st_mode & stat.S_IWOTH) and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX)


def _user(found: os.stat_result) -> str:
    return _name(found.st_uid)


def _owners() -> str:
    """Whom a folder may belong to, in words."""
    return " or ".join(dict.fromkeys([_name(os.geteuid()), "root"]))


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
