"""The interface between the learner and the queue or replay that feeds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mlma.core.types import Sample


class TrajectoryBuffer(Protocol):
    """What the learner's loop and the receiver know of a memory. The other one is mlma.replay.prioritized_replay.PrioritizedReplay."""

    insert_wait_seconds: float  # seconds that `insert` has waited for room, in all
    assembly_seconds: float  # seconds that `sample` took for the last sample after there was one to take

    def insert(self, records: Any) -> None: ...

    def sample(self, timeout: float) -> Sample | None: ...

    def update_priorities(self, keys: Any, priorities: Any) -> None: ...

    @property
    def exhausted(self) -> bool:
        """Whether `sample` has given out all that `insert` was given so far."""
        ...

    @property
    def fill(self) -> float: ...

    def gauges(self) -> dict[str, Callable[[], float]]: ...

    def close(self) -> None: ...
