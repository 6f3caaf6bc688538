"""Shows the output of a training run: in a notebook as one block that changes, elsewhere line by line."""

from __future__ import annotations

import collections
import sys
import time
from typing import Any

SHOWN_LINES = 12  # of the end, in a notebook
SECONDS_BETWEEN = 0.5  # updates of a notebook


class Progress:
    """`add` shows a line; `close` the state at the end. May be called from any one thread."""

    def __init__(self, show: bool) -> None:
        self._show = show
        self._lines: collections.deque[str] = collections.deque(maxlen=SHOWN_LINES)
        self._block: Any = None  # of a notebook
        self._updated = 0.0
        if show and _in_notebook():
            from IPython.display import display

            self._block = display(self._text(), display_id=True)

    def add(self, line: str) -> None:
        """The next line of the output."""
        self._lines.append(line)
        if not self._show:
            return
        if self._block is None:
            print(line, flush=True)
        elif time.monotonic() - self._updated > SECONDS_BETWEEN:
            self.close()

    def close(self) -> None:
        """Shows what a notebook does not show yet."""
        if self._block is not None:
            self._updated = time.monotonic()
            self._block.update(self._text())

    def _text(self) -> Any:
        return Lines("\n".join(self._lines))


class Lines:
    """Text as a notebook shows it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        """The text itself."""
        return self._text


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this: IPython is imported there, and its shell has a kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")
