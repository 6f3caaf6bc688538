"""The request to stop a learner: by a signal, or by a thread that failed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from mlma.utils.child_process import STOP_SIGNAL
from mlma.utils.failure import running

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL)
LEAVE_SECONDS = 2.0  # after the first signal, for the learner step to end


class StopSignal:
    """Requested by the first SIGINT (Ctrl-C), SIGTERM or SIGUSR1. A second signal ends the process at once.

    The interpreter notices a signal only between two calls, and a learner step is one call that may take half a minute.
    So a thread of its own reads the number of each signal from a pipe, to which the signal handler in C writes it.
    """

    def __init__(self, on_slow_step: Callable[[], None] | None = None) -> None:
        """`on_slow_step` is called by the thread if the loop has not ended `LEAVE_SECONDS` after the first signal."""
        self.requested = False
        self.failure: BaseException | None = None
        self.broken = False  # whether this rank left the training loop at a point where the others did not
        self.left = threading.Event()  # the training loop has ended
        self._on_slow_step = on_slow_step
        self._read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        threading.Thread(target=self._watch, name="stop-signal", daemon=True).start()
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

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
        self.requested = True

    def _watch(self) -> None:
        first = self._next_signal()
        self.requested = True
        logger.warning(
            "%s: stopping after this step and saving a checkpoint; another signal ends at once",
            signal.Signals(first).name,
        )
        threading.Thread(target=self._leave, name="leave", daemon=True).start()
        # Children end with this process: mlma.utils.child_process.setup_child_process.
        os._exit(128 + self._next_signal())

    def _next_signal(self) -> int:
        while (number := os.read(self._read_end, 1)[0]) not in STOP_SIGNALS:
            pass  # one that something else handles
        return number

    def _leave(self) -> None:
        if self._on_slow_step and not self.left.wait(LEAVE_SECONDS):
            self._on_slow_step()
