"""Standard output and standard error that never end a run: on a full disk, into a pipe without reader, or closed.

Installed once in a process, so that every print is covered, also those of packages.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
from typing import Any, TextIO, cast

from mlma.utils.side_task import describe

logger = logging.getLogger(__name__)
NAMES = {1: "standard output", 2: "standard error"}


class ForgivingStream(io.TextIOBase):
    """Writes whole lines to a descriptor. A line that cannot be written is lost, which the log says once."""

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._descriptor, self._encoding = descriptor, encoding
        self._pending = ""  # the beginning of a line
        self._torn = False  # the last line ended early
        self._lost = 0  # lines in a row
        self._lock = threading.RLock()  # a signal handler may print in the middle of a print
        self.other: ForgivingStream | None = None  # which may work when this one does not

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The name of the encoding."""
        return self._encoding

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether this is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """It is, even if what is written gets lost."""
        return True

    def write(self, text: str) -> int:
        """Writes as soon as there is a whole line."""
        with self._lock:
            self._pending += text
            if "\n" in text:
                self.flush()
        return len(text)

    def flush(self) -> None:
        """Writes the rest."""
        with self._lock:
            text, self._pending = self._pending, ""
            if not text:
                return
            if not self._try_to_write(text):
                self._lost += max(1, text.count("\n"))
            elif self._lost:
                lost, self._lost = self._lost, 0
                self._say(logging.INFO, f"{NAMES[self._descriptor]} works again; {lost} lines are missing")

    def _try_to_write(self, text: str) -> bool:
        written = 0
        try:
            data = memoryview(("\n" * self._torn + text).encode(self._encoding, "backslashreplace"))
            while data[written:]:
                written += os.write(self._descriptor, data[written:])
        except Exception as problem:  # also MemoryError: no print may end a run
            self._torn = self._torn or (written > 0 and data[written - 1] != ord("\n"))
            if not self._lost:
                reason = f"{NAMES[self._descriptor]} failed: {describe(problem)}; training continues"
                self._say(logging.WARNING, reason)
            return False
        self._torn = False
        return True

    def _say(self, level: int, line: str) -> None:
        """Tells the other stream and the log, from a thread of its own, since the caller may hold any lock."""

        def say() -> None:
            if self.other and level == logging.WARNING:
                self.other.write(line + "\n")
            logger.log(level, line)

        with contextlib.suppress(RuntimeError, MemoryError):  # no thread can be started
            threading.Thread(target=say, name="stream-problem", daemon=True).start()


def install_forgiving_streams() -> None:
    """Replaces sys.stdout and sys.stderr. Called first in a process.

    A descriptor of 0, 1 or 2 that is closed is opened on /dev/null: the next file would get its number, and with it
    every line that a library prints.
    """
    closed = [descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor)]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    made = {number: ForgivingStream(number, _encoding(sys.stdout)) for number in NAMES}
    made[1].other, made[2].other = made[2], made[1]
    sys.stdout, sys.stderr = cast(TextIO, made[1]), cast(TextIO, made[2])
    for descriptor in closed:
        if other := made.get(descriptor) and made[descriptor].other:
            other.write(f"{NAMES[descriptor]} is closed; training continues without it\n")


def print_text(text: str) -> int:
    """Prints text that somebody asked for, such as a list of flags; the exit code. A reader that has seen enough, such
    as `head`, is no failure."""
    stream: Any = sys.stdout
    with contextlib.suppress(Exception):
        stream.flush()
    try:
        if isinstance(stream, ForgivingStream):  # which would tell of the failure, but as one in training
            data = memoryview(f"{text}\n".encode(stream.encoding, "backslashreplace"))
            while data:
                data = data[os.write(stream.fileno(), data) :]
        else:
            print(text, flush=True)
    except BrokenPipeError:
        _drop_standard_output()
    except OSError as problem:
        _drop_standard_output()
        print(f"{NAMES[1]} failed: {describe(problem)}", file=sys.stderr)
        return 1
    return 0


def _drop_standard_output() -> None:
    """So that nothing is written there when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _encoding(stream: Any) -> str:
    return getattr(stream, "encoding", None) or "utf-8"
