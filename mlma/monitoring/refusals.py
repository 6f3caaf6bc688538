"""Refused messages: counted by reason, and logged so that no sender can fill the log.

Not here: the reasons (mlma/core/refusal.py), the checks (mlma/learning/trajectory_checks.py and others).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from mlma.core.refusal import MAX_SHOWN_CHARACTERS, RefusedError, shown

logger = logging.getLogger(__name__)

REPEAT_SECONDS = 60.0  # between two lines about one actor and one reason
MAX_LINES = 30  # about all actors, within REPEAT_SECONDS
MAX_KINDS = 1000  # pairs of actor and reason that are told apart
FORGET_SECONDS = 600.0  # after which a pair that was quiet makes room for another

# What the handling of one message may raise without ending the run.
REFUSABLE = (ValueError, KeyError, TypeError, OverflowError, MemoryError, OSError)


def reason_of(error: BaseException) -> str:
    """The name under which this error is counted."""
    if isinstance(error, RefusedError):
        return error.reason
    return "memory" if isinstance(error, (MemoryError, OSError)) else "malformed"


class Refusals:
    """Called by the threads that handle messages."""

    def __init__(self, count_fault: Callable[[str], None]) -> None:
        self._count_fault = count_fault
        self._lock = threading.Lock()
        # (actor, reason) -> when it was logged last, and how often it has happened since.
        self._kinds: dict[tuple[int | None, str], tuple[float, int]] = {}
        self._period_began, self._lines = 0.0, 0  # of the limit on all lines
        self._last: dict[int, tuple[int, str]] = {}  # actor -> how many were refused, and why the last one

    def add(self, error: BaseException, actor: int | None = None, what: str = "a message of ") -> None:
        """Counts a refusal, and logs the first of its kind, then at most one line in REPEAT_SECONDS.

        `actor` is None where it is unknown. `what` of the actor was refused; "" is the actor itself.
        """
        reason = reason_of(error)
        self._count_fault("messages_refused")
        self._count_fault(f"refused_{reason}")
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        with self._lock:
            if actor is not None and (actor in self._last or len(self._last) < MAX_KINDS):
                self._last[actor] = (self._last.get(actor, (0, ""))[0] + 1, shown(text, MAX_SHOWN_CHARACTERS))
            actor, unlogged = self._note(actor, reason)
        if unlogged is None:
            return
        sender = "an unknown actor" if actor is None else f"actor {actor}"
        more = f"; {unlogged} more since the last such line" if unlogged else ""
        logger.warning("refused %s%s: %s (%s%s)", what, sender, shown(text, MAX_SHOWN_CHARACTERS), reason, more)

    def of_actor(self, actor: int) -> tuple[int, str]:
        """How many messages of this actor were refused, and why the last one was."""
        with self._lock:
            return self._last.get(actor, (0, ""))

    def _note(self, actor: int | None, reason: str) -> tuple[int | None, int | None]:
        """The actor to name, and the number of refusals since the last line; None if no line is due."""
        now = time.monotonic()
        if (actor, reason) not in self._kinds and len(self._kinds) >= MAX_KINDS:
            self._kinds = {kind: last for kind, last in self._kinds.items() if now - last[0] < FORGET_SECONDS}
            if len(self._kinds) >= MAX_KINDS:
                actor = None
        logged, unlogged = self._kinds.get((actor, reason), (-REPEAT_SECONDS, 0))
        if now - self._period_began >= REPEAT_SECONDS:
            self._period_began, self._lines = now, 0
        if now - logged < REPEAT_SECONDS or self._lines >= MAX_LINES:
            self._kinds[actor, reason] = (logged, unlogged + 1)
            return actor, None
        self._lines += 1
        self._kinds[actor, reason] = (now, 0)
        return actor, unlogged
