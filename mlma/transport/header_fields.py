"""Reads fields of a message's header, which may hold anything that JSON can express.

Not here: the framing (mlma/transport/messages.py), the numbers in records (mlma/core/record_checks.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mlma.core.refusal import RefusedError, shown

MAX_TASK = 999_999  # of an actor's number
MAX_SECONDS = 1e10  # of a time that an actor reports: 300 years
MAX_MAPS = 1_000_000  # that environments load within one trajectory
VALUE_CHARACTERS = 40  # of a refused value, in a line of the log


def read_integer(header: dict[str, Any], name: str, low: int, high: int, reason: str = "header") -> int:
    """A whole number within [low, high]; RefusedError for anything else, such as 1.0 or true."""
    value = header.get(name)
    if type(value) is not int or not low <= value <= high:
        text = f"{name}={shown(value, VALUE_CHARACTERS)}: must be a whole number within {low} to {high}"
        raise RefusedError(reason, text)
    return value


def read_task(header: dict[str, Any]) -> int:
    """The actor's number."""
    return read_integer(header, "task", 0, MAX_TASK, "actor")


def read_phases(header: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Seconds by phase, for exactly these phases."""
    phases = header.get("phases")
    if not isinstance(phases, dict) or phases.keys() != set(names):
        raise RefusedError("header", f"phases: must be seconds of {', '.join(names)}")
    return {name: _seconds(name, phases[name]) for name in names}


def read_level_cache(header: dict[str, Any]) -> tuple[int, int]:
    """Hits and misses of the level cache since the actor's previous report; none where there is no such cache."""
    counts = header.get("level_cache", [0, 0])
    if not isinstance(counts, list) or len(counts) != 2 or any(type(n) is not int or n < 0 for n in counts):
        raise RefusedError("header", "level_cache: must be numbers of hits and misses")
    if max(counts) > MAX_MAPS:
        raise RefusedError("header", f"level_cache: must be at most {MAX_MAPS}")
    return counts[0], counts[1]


def read_events(header: dict[str, Any], names: Sequence[str], limit: int) -> list[tuple[str, float, float]]:
    """At most `limit` events (phase, start, duration); none if the actor records none."""
    events = header.get("events", [])
    if not isinstance(events, list) or len(events) > limit:
        raise RefusedError("header", f"events: must be a list of at most {limit}")
    return [_event(event, names) for event in events]


def _event(event: Any, names: Sequence[str]) -> tuple[str, float, float]:
    if not isinstance(event, list) or len(event) != 3 or event[0] not in names:
        raise RefusedError("header", f"events: {shown(event, VALUE_CHARACTERS)} is no phase, start and duration")
    return event[0], _seconds("start", event[1]), _seconds("duration", event[2])


def _seconds(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not (0 <= value <= MAX_SECONDS and math.isfinite(value)):
        raise RefusedError("header", f"{name}: {shown(value, VALUE_CHARACTERS)} is not a number of seconds")
    return float(value)
