"""Which trajectories a replay holds, and which of them continues which.

A trajectory is identified by its serial number, which counts those inserted. Until it is overwritten it is in slot
serial % slots. Not here: locks and windows (mlma/replay/prioritized_replay.py), the data
(mlma/replay/trajectory_store.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

NO_SERIAL = -1


class TrajectoryLinks:
    """Serial numbers of `slots` trajectories, in chains of `depth` (K) consecutive ones. The caller holds a lock."""

    def __init__(self, slots: int, depth: int) -> None:
        self._slots, self._depth = slots, depth
        self.num_inserted = 0  # serial numbers allocated so far
        self._serial = np.full(slots, NO_SERIAL, np.int64)
        self._next = np.full(slots, NO_SERIAL, np.int64)  # serial of the trajectory that continues where this one ends
        self._previous = np.full(slots, NO_SERIAL, np.int64)
        self._positions = np.zeros((slots, 2), np.int64)  # env_stream_id, sequence_number
        self._latest: dict[int, int] = {}  # env_stream_id -> serial of its last trajectory

    def allocate(self, count: int) -> Any:
        """The next `count` serial numbers, of trajectories that are not in the replay yet."""
        serials = np.arange(self.num_inserted, self.num_inserted + count)
        self.num_inserted += count
        return serials

    def remove(self, slots: Any) -> None:
        """Forgets the trajectories in these slots."""
        for slot in slots[self._serial[slots] != NO_SERIAL]:
            stream_id = int(self._positions[slot, 0])
            if self._latest.get(stream_id) == self._serial[slot]:
                del self._latest[stream_id]
        self._serial[slots] = self._next[slots] = self._previous[slots] = NO_SERIAL

    def add(self, serials: Any, stream_ids: Any, sequence_numbers: Any) -> None:
        """Links trajectories [N] to those that they continue; a gap in the sequence numbers breaks the chain."""
        slots = serials % self._slots
        self._serial[slots] = serials
        self._positions[slots, 0], self._positions[slots, 1] = stream_ids, sequence_numbers
        for serial, stream_id, number in zip(
            serials.tolist(), stream_ids.tolist(), sequence_numbers.tolist(), strict=True
        ):
            previous = self._latest.get(stream_id, NO_SERIAL)
            if previous != NO_SERIAL and self._positions[previous % self._slots, 1] + 1 == number:
                self._next[previous % self._slots] = serial
                self._previous[serial % self._slots] = previous
            self._latest[stream_id] = serial

    def alive(self, serials: Any) -> Any:
        """bool, whether these trajectories are in the replay."""
        return (serials >= 0) & (self._serial[serials % self._slots] == serials)

    def chain(self, serials: Any) -> Any:
        """Serials of the K trajectories from each of these [N] on: [N, K]."""
        chain = [serials]
        for _ in range(self._depth - 1):
            chain.append(self._next[chain[-1] % self._slots])
        return np.stack(chain, axis=1)

    def chains_ending_with(self, serials: Any) -> Any:
        """[M, K]: the complete chains whose last trajectory is one of these [N]."""
        first = serials
        for _ in range(self._depth - 1):
            first = np.where(self.alive(first), self._previous[first % self._slots], NO_SERIAL)
        return self.chain(first[self.alive(first)])

    def serial_of(self, slots: Any) -> Any:
        """Serial numbers of the trajectories in these slots."""
        return self._serial[slots]

    def stored(self) -> Any:
        """Serial numbers of all trajectories in the replay, oldest first."""
        return np.sort(self._serial[self._serial != NO_SERIAL])

    def positions(self, slots: Any) -> tuple[Any, Any]:
        """(env_stream_id, sequence_number) of the trajectories in these slots."""
        stream_ids, sequence_numbers = self._positions[slots].T
        return stream_ids, sequence_numbers
