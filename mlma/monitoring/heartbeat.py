"""Heartbeat: a small file in which a worker records its progress (`--heartbeat_folder`).

The worker's own loop writes it, not a thread: a worker that hangs for any reason goes silent. A worker that waits for
another worker records that, and does not count as hung. Times come from the kernel's monotonic clock, which all
processes of a host share, including those in containers. Not here: reading the files (mlma/monitoring/health_check.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from mlma.utils.child_process import process_start_time

RECORD_BYTES = 512  # size of the file; it is written in place, so a full disk does not stop a worker
OVER_SUFFIX = ".over"
START_GRACE_SECONDS = 600.0  # silence allowed before the first progress: TensorFlow compiles, learners connect


class Heartbeat:
    """The worker's side: records what it does, in microseconds each time. Without a folder it does nothing."""

    def __init__(self, folder: str, worker: str) -> None:
        """ValueError if the folder cannot be written to."""
        now = time.monotonic()
        self._record: dict[str, Any] = {
            "worker": worker, "pid": os.getpid(), "birth": process_start_time(os.getpid()), "began": now, "beat": now,
            "progressed": None, "frames": 0, "waits_for": "", "may_be_silent": START_GRACE_SECONDS, "connected": False,
        }  # fmt: skip
        self._path = Path(folder) / f"{worker}.json" if folder else None
        if self._path:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.unlink(missing_ok=True)
                self._path.with_suffix(OVER_SUFFIX).unlink(missing_ok=True)  # of an earlier run
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            except OSError as error:
                raise ValueError(f"--heartbeat_folder={folder}: {error.strerror}") from None
            self._beat()

    def busy(self) -> None:
        """The worker is working and waits for nobody."""
        self._beat(waits_for="", may_be_silent=START_GRACE_SECONDS if self._record["progressed"] is None else 0.0)

    def connected(self) -> None:
        """This learner and all others have found each other."""
        self._beat(connected=True)

    def waiting_for(self, what: str, seconds: float = 0.0) -> None:
        """The worker waits for `what`, for at most `seconds` before its next heartbeat."""
        self._beat(waits_for=what, may_be_silent=seconds)

    def progress(self, frames: int) -> None:
        """The worker has made progress: `frames` in total."""
        self._beat(waits_for="", may_be_silent=0.0, frames=frames, progressed=time.monotonic())

    def record(self) -> dict[str, Any]:
        """A copy of the record as it is now; any thread may ask."""
        return dict(self._record)

    def training_is_over(self) -> None:
        """The run is trained and saved: leaves WORKER.over, by which a supervisor tells this from any other end.

        The file is the heartbeat under another name, since renaming works on a full disk, too.
        """
        if self._path:
            with contextlib.suppress(OSError):
                os.replace(self._path, self._path.with_suffix(OVER_SUFFIX))

    def close(self) -> None:
        """The worker has finished: removes the file."""
        if self._path:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _beat(self, **changes: Any) -> None:
        self._record |= changes | {"beat": time.monotonic()}
        if self._path:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, json.dumps(self._record).encode().ljust(RECORD_BYTES), 0)
