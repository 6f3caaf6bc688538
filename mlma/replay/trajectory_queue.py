"""Where trajectories wait for the learner. `insert` on one side, `sample` on the other; both wait, and say for how long.

TrajectoryQueue: first in, first out (IMPALA). Trajectories are written into the sample they will be trained in as they
arrive, and the finished sample is already made of tensors: the next one is prepared while this one trains.
"""

from __future__ import annotations

import collections
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mlma.core.record_layout import RecordLayout
from mlma.core.types import Sample, Trajectory


class TrajectoryQueue:
    """Holds about `capacity` trajectories in samples of `batch_size`; a full queue makes `insert` wait.

    Each sample is given out `uses` times, `APART` new ones between one time and the next, so that no update repeats the
    data of the one before it.
    """

    APART = 4

    def __init__(self, layout: RecordLayout, batch_size: int, capacity: int, uses: int = 1) -> None:
        self._layout, self._batch_size = layout, batch_size
        self._recent: collections.deque[Sample] = collections.deque(maxlen=self.APART * (uses - 1) + 1)
        self._again: list[Sample] = []  # what is due before the next new one
        self._ready: queue.Queue[Sample] = queue.Queue(max(1, capacity // batch_size))
        self._records = layout.empty(batch_size)
        self._filled = 0
        self._closed = threading.Event()
        self.insert_wait_seconds, self.assembly_seconds = 0.0, 0.0  # samples are stacked by `insert`
        self._given = self._taken = 0  # trajectories

    def insert(self, records: Any) -> None:
        """Takes records of `layout`; waits while the queue is full."""
        self._given += len(records)
        while len(records):
            count = min(len(records), self._batch_size - self._filled)
            self._records[self._filled : self._filled + count] = records[:count]
            self._filled += count
            records = records[count:]
            if self._filled == self._batch_size:
                self._filled = 0
                self._put(self._to_sample())

    def sample(self, timeout: float) -> Sample | None:
        """The next sample, or None if there is none within `timeout` seconds."""
        if self._again:
            return self._again.pop()._replace(num_new_steps=0)
        try:
            sample = self._ready.get(timeout=timeout)
        except queue.Empty:
            return None
        self._taken += self._batch_size
        self._recent.appendleft(sample)
        self._again = list(self._recent)[self.APART :: self.APART]
        return sample

    @property
    def exhausted(self) -> bool:
        return self._taken == self._given and not self._again

    def update_priorities(self, keys: Any, priorities: Any) -> None:
        """A queue has none."""

    def gauges(self) -> dict[str, Callable[[], float]]:
        return {"queue/fill": lambda: self.fill}

    def close(self) -> None:
        self._closed.set()

    @property
    def fill(self) -> float:
        """Between 0 and 1."""
        return self._ready.qsize() / self._ready.maxsize

    def _put(self, sample: Sample) -> None:
        began = time.perf_counter()
        while not self._closed.is_set():
            try:
                self._ready.put(sample, timeout=0.2)
                break
            except queue.Full:
                continue
        self.insert_wait_seconds += time.perf_counter() - began

    def _to_sample(self) -> Sample:
        trajectory = self._layout.view(self._records)  # [B, T+1, ...]
        trajectory = Trajectory(
            agent_state=_to_tensors(trajectory.agent_state),
            timesteps=_to_tensors(trajectory.timesteps, time_first=True),
            act_outputs=_to_tensors(trajectory.act_outputs, time_first=True),
            weights_version=trajectory.weights_version.copy(),
            actor_id=tf.constant(trajectory.actor_id),
        )
        zeros = np.zeros(self._batch_size)
        return Sample(
            trajectory,
            keys=tf.constant(zeros, tf.int64),
            importance_weights=tf.constant(zeros + 1, tf.float32),
            num_new_steps=self._batch_size * (trajectory.timesteps.is_first.shape[0] - 1),
        )


def _to_tensors(nest: Any, time_first: bool = False) -> Any:
    def convert(array: Any) -> tf.Tensor:
        return tf.constant(
            np.ascontiguousarray(array.swapaxes(0, 1)) if time_first else array
        )  # [B, T, ...] -> [T, B, ...]

    return tf.nest.map_structure(lambda x: None if x is None else convert(x), nest)
