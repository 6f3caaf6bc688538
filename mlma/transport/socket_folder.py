"""A private folder for a socket. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlma.utils.own_files import open_own

SOCKET_FOLDER_PREFIX, SOCKET_LOCK = "mlma-", "lock"


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder that only this user can open, for a socket; locked while this process lives, removed at the end.

    A learner that starts removes those whose lock nobody holds (mlma/roles/run_folder.py).
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=SOCKET_FOLDER_PREFIX))  # mode 0700
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
