"""The boundary between a mistake in the command line and a failure of the run.

Until a role works, a ValueError is a mistake of the user: one line, exit code 2, no restart. From then on it is a
failure like any other exception: a traceback, exit code 1, a restart. Everything within `running` is on the far side of
the boundary, whoever raises it, so a role says once where its work begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class RunFailedError(RuntimeError):
    """A ValueError that was raised while a role worked; that one is its cause."""


@contextlib.contextmanager
def running() -> Iterator[None]:
    """From here on a ValueError is a failure of the run. Also a decorator."""
    try:
        yield
    except ValueError as error:
        raise RunFailedError(f"{type(error).__name__}: {error}") from error
