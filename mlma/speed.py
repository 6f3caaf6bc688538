"""How fast an actor plays, said now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

SAY_EVERY = 30.0


class Speed:
    """Says now and then how fast this actor plays; `mlma.cluster.status` reads it."""

    def __init__(self, frames: int, say: Callable[[str], None]) -> None:
        """`frames` are those of one `add`."""
        self._frames, self._say = frames, say
        self._count, self._since = 0, time.monotonic()
        self.total = 0  # frames

    def add(self) -> None:
        self._count += 1
        self.total += self._frames
        if (seconds := time.monotonic() - self._since) > SAY_EVERY:
            self._say(f"{self._count * self._frames / seconds:,.0f} frames/s")
            self._count, self._since = 0, time.monotonic()
