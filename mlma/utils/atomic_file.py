"""Atomic file writes, and a writability check for folders. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mlma.utils.own_files import make_own_folder


@contextlib.contextmanager
def atomic_write(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Writes a temporary file next to `path` and renames it, so nobody ever sees half a file, not even after a crash.

    The folder must exist. A link at `path` is replaced, not followed. What a killed process leaves is removed by
    mlma/roles/run_folder.py.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of an earlier process with the same id
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path, flag: str) -> None:
    """Creates the folder if it does not exist; ValueError in one line if it cannot be written to."""
    try:
        make_own_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return  # a full disk is reported when the run saves
        parent = f"{error.filename}: " if Path(error.filename or folder) in folder.parents else ""
        raise ValueError(f"{flag}={folder}: cannot be written to: {parent}{error.strerror}") from None
