"""Files that are whole or not there, and folders that take some. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Written beside, then renamed: a reader, a crash and a full disk never see half a file. Its folder must exist."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def check_writable(folder: Path, flag: str) -> None:
    """Makes the folder where it is not there yet; ValueError in one line if nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return  # what a disk that is full does to a run is told when it saves
        where = f"{error.filename}: " if Path(error.filename or folder) in folder.parents else ""
        raise ValueError(f"{flag}={folder}: cannot be written to: {where}{error.strerror}") from None
