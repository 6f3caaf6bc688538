"""The request to stop a learner: by a signal, or by a thread that failed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

from mlma.utils.child_process import STOP_SIGNAL
from mlma.utils.failure import running

logger = logging.getLogger(__name__)


class StopSignal:
    """Requested by the first SIGINT (Ctrl-C), SIGTERM or SIGUSR1. A second signal ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self.failure: BaseException | None = None
        self.broken = False  # whether this rank left the training loop at a point where the others did not
        for number in (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL):
            signal.signal(number, self._on_signal)

    def fail(self, failure: BaseException) -> None:
        """Requests a stop because something failed; the process will exit with an error."""
        logger.error("a thread of the learner failed", exc_info=failure)
        self.failure, self.requested = failure, True

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Training: whatever is raised from here on is a failure of the run, which is logged and kept."""
        try:
            with running():
                yield
        except Exception as failure:
            logger.exception("training failed")
            self.failure, self.broken = failure, True

    def _on_signal(self, number: int, _: Any) -> None:
        if self.requested:
            os._exit(128 + number)  # children end with this process: mlma.utils.child_process.setup_child_process
        self.requested = True
        logger.warning("%s: saving a checkpoint and ending; another signal ends at once", signal.Signals(number).name)
