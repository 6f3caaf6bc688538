"""Heartbeat: a small file in which a worker records its progress (`--health_folder`).

The worker's own loop writes it, not a thread: a worker that hangs for any reason goes silent. A worker that waits for another
worker records that, and does not count as hung. Times come from the kernel's monotonic clock, which all processes of a host
share, including those in containers. Not here: reading the files (mlma/monitoring/health_check.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from mlma.cluster.on_host.supervisor import process_start_time

RECORD_BYTES = 512  # bytes of the file; it is written in place, so that a full disk takes nothing away from a worker
START_GRACE_SECONDS = (
    600.0  # seconds for which a worker may be silent before its first progress: TensorFlow compiles, learners meet
)


class Heartbeat:
    """A worker's end: says what it does, in microseconds each time. Without a folder it says nothing."""

    def __init__(self, folder: str, worker: str) -> None:
        """ValueError if the folder cannot be written to."""
        now = time.monotonic()
        self._record: dict[str, Any] = {
            "worker": worker, "pid": os.getpid(), "birth": process_start_time(os.getpid()), "began": now, "beat": now,
            "progressed": None, "frames": 0, "waits_for": "", "may_be_silent": START_GRACE_SECONDS,
        }  # fmt: skip
        self._path = Path(folder) / f"{worker}.json" if folder else None
        if self._path:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.unlink(missing_ok=True)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            except OSError as error:
                raise ValueError(f"--health_folder={folder}: {error.strerror}") from None
            self._beat()

    def works(self) -> None:
        """Nobody is waited for."""
        self._beat(waits_for="", may_be_silent=START_GRACE_SECONDS if self._record["progressed"] is None else 0.0)

    def waits(self, what: str, seconds: float = 0.0) -> None:
        """Another worker must act first; `seconds` is how long it is waited for without a word, at most."""
        self._beat(waits_for=what, may_be_silent=seconds)

    def progressed(self, frames: int) -> None:
        """`frames` is how many there have been."""
        self._beat(waits_for="", may_be_silent=0.0, frames=frames, progressed=time.monotonic())

    def end(self) -> None:
        """It is over, and nobody need look any more."""
        if self._path:
            self._path.unlink(missing_ok=True)

    def _beat(self, **changes: Any) -> None:
        self._record |= changes | {"beat": time.monotonic()}
        if self._path:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, json.dumps(self._record).encode().ljust(RECORD_BYTES), 0)
