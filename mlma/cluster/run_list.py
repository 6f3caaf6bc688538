"""The logdirs of the runs that this user started from this machine, in ~/.local/state/mlma/runs, one a line.

Only for `list`: every other command gets --logdir, and works without this file. Not here: the state of a run
(mlma/cluster/state.py).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mlma.utils.atomic_file import atomic_write

MAX_RUNS = 1000  # the last ones


def runs_file() -> Path:
    """The file; XDG_STATE_HOME moves it."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "mlma/runs"


def known_logdirs() -> list[str]:
    """Those that have a state still, in the order in which they were first started."""
    try:
        lines = runs_file().read_text().splitlines()
    except (OSError, ValueError):
        return []
    return [line for line in dict.fromkeys(lines) if line and Path(line, "cluster/run.json").is_file()]


def remember_logdir(logdir: str) -> None:
    """Adds a logdir. A run starts also where that is impossible."""
    path = str(Path(logdir).absolute())
    known = known_logdirs()
    if path in known or "\n" in path:
        return
    with contextlib.suppress(OSError):
        runs_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(runs_file(), mode=0o600) as file:
            file.write("".join(f"{line}\n" for line in [*known, path][-MAX_RUNS:]).encode())
