"""What a worker process prints: passed on to the log of this process, with its last lines kept for messages."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import threading
from typing import IO

from mlma.utils.user_text import printable

MAX_LINES, LINE_BYTES, LINE_CHARACTERS = 5, 8192, 300
JOIN_SECONDS = 1.0  # processes that the worker left behind may hold its output open
STANDARD_ERROR = 2


class WorkerOutput:
    """Reads a pipe in a thread of its own until all its writers have ended."""

    def __init__(self, pipe: IO[bytes], quiet: bool) -> None:
        """With `quiet`, nothing is passed on."""
        self._lines: collections.deque[bytes] = collections.deque(maxlen=MAX_LINES)
        self._thread = threading.Thread(target=self._read, args=(pipe, quiet), name="worker-output", daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[bytes], quiet: bool) -> None:
        with pipe:
            while line := pipe.readline(LINE_BYTES):
                if line.strip():
                    self._lines.append(line)
                if not quiet:
                    with contextlib.suppress(OSError):
                        os.write(STANDARD_ERROR, line)

    def last_lines(self) -> str:
        """The end of a message about a worker that has ended: "; its last lines: ...", or "" if it printed nothing."""
        self._thread.join(JOIN_SECONDS)
        return last_lines(b"".join(self._lines))


def last_lines(log: bytes) -> str:
    """The end of a message with the last lines of what a process printed; "" if it printed nothing."""
    lines = [line.strip() for line in log.decode(errors="replace").splitlines() if line.strip()][-MAX_LINES:]
    if not lines:
        return ""
    # An error that is in the log by itself must not be found there twice (mlma/envs/failures.py).
    text = " | ".join(printable(re.sub(r"^[\w.]+\.\w+Error: ", "", line), LINE_CHARACTERS) for line in lines)
    return f"; its last line{'s' if len(lines) > 1 else ''}: {text}"
