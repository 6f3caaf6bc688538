"""The request to stop a learner: by a signal, or by a thread that failed."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from mlma.utils.child_process import STOP_SIGNAL

logger = logging.getLogger(__name__)


class StopSignal:
    """Requested by the first SIGINT (Ctrl-C), SIGTERM or SIGUSR1. A second signal ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self.failure: BaseException | None = None
        for number in (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL):
            signal.signal(number, self._on_signal)

    def fail(self, failure: BaseException) -> None:
        """Requests a stop because something failed; the process will exit with an error."""
        self.failure, self.requested = failure, True

    def _on_signal(self, number: int, _: Any) -> None:
        if self.requested:
            os._exit(128 + number)  # children end with this process: mlma.utils.child_process.setup_child_process
        self.requested = True
        logger.warning("%s: saving a checkpoint and ending; another signal ends at once", signal.Signals(number).name)
