"""Output of the frontend into a pipe whose reader may go away, such as `head`: what nobody reads is dropped quietly.

A command that changes something still carries it through, and its exit code is its own.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO, cast


class Output(io.TextIOBase):
    """Standard output or standard error, without the error for a reader that is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.reader_is_gone = False

    def write(self, text: str) -> int:
        """Writes unless nobody reads."""
        if not self.reader_is_gone:
            try:
                self._stream.write(text)
            except BrokenPipeError:
                self._drop()
        return len(text)

    def flush(self) -> None:
        """Flushes unless nobody reads."""
        if not self.reader_is_gone:
            try:
                self._stream.flush()
            except BrokenPipeError:
                self._drop()

    def _drop(self) -> None:
        self.reader_is_gone = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # for what is still in buffers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The name of the encoding."""
        return self._stream.encoding

    def fileno(self) -> int:
        """The descriptor."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether this is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """It is, even if nobody reads."""
        return True


def install_outputs() -> None:
    """Replaces sys.stdout and sys.stderr."""
    sys.stdout, sys.stderr = cast(TextIO, Output(sys.stdout)), cast(TextIO, Output(sys.stderr))


def reader_is_gone(stream: Any) -> bool:
    """Whether nobody reads this stream any more."""
    if not isinstance(stream, Output):
        return False
    if not stream.reader_is_gone:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are always reported
        stream.reader_is_gone = any(event & select.POLLERR for _, event in poll.poll(0))
    return stream.reader_is_gone
