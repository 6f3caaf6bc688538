"""The interface between a learner and the queue or replay that it trains from.

Implementations: mlma/replay/trajectory_queue.py, mlma/replay/prioritized_replay.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mlma.core.types import Sample


class TrajectoryBuffer(Protocol):
    """Where trajectories wait until the learner trains on them. One thread inserts, another one samples."""

    insert_wait_seconds: float  # total time that `insert` has waited for room
    assembly_seconds: float  # time that `sample` took to assemble the last sample, without waiting

    def insert(self, records: Any) -> None:
        """Adds trajectory records; waits while there is no room, which slows the actors down."""
        ...

    def sample(self, timeout: float) -> Sample | None:
        """The next sample, or None if there is none within `timeout` seconds."""
        ...

    def example(self) -> Sample | None:
        """A sample of zeros with the shapes of those to come; None if these are only known later."""
        ...

    def update_priorities(self, keys: Any, priorities: Any) -> None:
        """Sets new priorities [B] for the items `keys` [B] of a sample; a queue ignores them."""
        ...

    def discard(self, sample: Sample, priorities: Any) -> None:
        """The sample was dropped, with these priorities [B], because its loss or gradient is not finite: what may have
        been the reason is not sampled again."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether everything inserted so far has been sampled as often as it will be."""
        ...

    @property
    def fill(self) -> float:
        """How full the buffer is, from 0 to 1."""
        ...

    def gauges(self) -> dict[str, Callable[[], float]]:
        """Metric name -> function that reads its current value."""
        ...

    def close(self) -> None:
        """Releases threads that wait in `insert`."""
        ...
