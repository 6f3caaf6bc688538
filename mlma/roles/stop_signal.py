"""The request to stop a learner: from a signal, or from a thread that failed."""

from __future__ import annotations

import os
import signal
from typing import Any

from mlma.monitoring.run_log import Say
from mlma.utils.child_process import STOP_SIGNAL


class StopSignal:
    """The wish to stop: by the first Ctrl-C or SIGTERM, or by a failed thread. The second signal ends the process at once."""

    def __init__(self, say: Say) -> None:
        self.wanted = False
        self.failure: BaseException | None = None
        self._say = say
        for number in (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL):
            signal.signal(number, self._signal)

    def _signal(self, number: int, _: Any) -> None:
        if self.wanted:
            os._exit(128 + number)  # children go with us: mlma.utils.child_process.setup_child_process
        self.wanted = True
        self._say(f"{signal.Signals(number).name}: saving a checkpoint and ending; once more ends at once")

    def fail(self, failure: BaseException) -> None:
        self.failure, self.wanted = failure, True
