"""What changed since the session before: flags of a resumed run are compared with LOGDIR/config.json.

The file that they replace is kept as LOGDIR/config-until-FRAMES.json, which `--config` reads like any other.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from mlma.core.config import Config
from mlma.utils.atomic_file import atomic_write
from mlma.utils.own_files import open_own

logger = logging.getLogger(__name__)

FORMER_CONFIG = "config-until-{}.json"
# Where and how a run is reached, which says nothing about what it learns.
NOT_COMPARED = ("logdir", "heartbeat_folder", "learner_host", "actor_hosts", "token_file", "metrics_port")
MAX_SHOWN = 20  # changed flags in the log; the file has all


def note_changes(config: Config, logdir: Path, frames: int) -> dict[str, list[Any]]:
    """Flag -> [before, now] of a run that resumes at `frames`; logs them, and keeps the former file."""
    text, before = _read(logdir / "config.json") if frames else (b"", {})
    now = json.loads(json.dumps(config.flags()))
    changed = {
        name: [before[name], now[name]]
        for name in now
        if name in before and before[name] != now[name] and name not in NOT_COMPARED
    }
    if not changed:
        return {}
    former = logdir / FORMER_CONFIG.format(frames)
    words = [f"--{name}={_shown(new)} (was {_shown(old)})" for name, (old, new) in changed.items()]
    more = f" and {len(words) - MAX_SHOWN} more" if len(words) > MAX_SHOWN else ""
    logger.info("flags changed at %s frames: %s%s", f"{frames:,}", ", ".join(words[:MAX_SHOWN]), more)
    try:
        if not former.exists():  # of a session that trained up to here; one that saved nothing since does not count
            with atomic_write(former) as file:
                file.write(text)
        logger.info("the flags until then are in %s", former)
    except OSError as problem:
        logger.warning("the flags until then could not be kept in %s: %s", former, problem.strerror)
    return changed


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The file and what it holds; nothing if it cannot be read."""
    try:
        with open_own(path, os.O_RDONLY) as file:
            text = file.read()
        values = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return b"", {}
    return text, values if isinstance(values, dict) else {}


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return value if isinstance(value, str) and value else json.dumps(value)
