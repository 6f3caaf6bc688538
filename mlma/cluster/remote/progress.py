"""Which hosts a command still waits for, on standard error: one line that is rewritten, or a few lines in a file."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType

FIRST_SECONDS = 1.0  # of waiting, after which a terminal shows it
FIRST_LINE_SECONDS, NEXT_LINE_SECONDS = 2.0, 15.0  # the same where lines cannot be rewritten
MAX_LISTED_HOSTS = 4


class WaitingLine:
    """Shows what `show` gets, once it has taken long enough. The line is gone when the context ends."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._rewrites = sys.stderr.isatty()
        self._next = self._started + (FIRST_SECONDS if self._rewrites else FIRST_LINE_SECONDS)
        self._visible = False

    def __enter__(self) -> WaitingLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._visible:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def show(self, total: int, pending: list[tuple[str, str]]) -> None:
        """`pending` are hosts, each with what is being done there."""
        now = time.monotonic()
        if now < self._next or not pending:
            return
        text = waiting_text(total, pending, now - self._started)
        if self._rewrites:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{text[:width]}")
            sys.stderr.flush()
            self._visible = True
        else:
            self._next = now + NEXT_LINE_SECONDS
            print(text, file=sys.stderr)


def waiting_text(total: int, pending: list[tuple[str, str]], seconds: float) -> str:
    """The number of hosts that are done and, by name, some of those that are not."""
    others = len(pending) - MAX_LISTED_HOSTS
    names = ", ".join(f"{name} ({step})" for name, step in pending[:MAX_LISTED_HOSTS])
    more = f" and {others} more" if others > 0 else ""
    return f"{total - len(pending)} of {total} hosts done after {seconds:.0f} s; waiting for {names}{more}"
