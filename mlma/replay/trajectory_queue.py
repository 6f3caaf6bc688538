"""The queue that IMPALA trains from: first in, first out, with back-pressure.

Trajectories are written into the sample that they will be part of as they arrive, and a complete sample is converted to
tensors at once, so the next sample is prepared while the learner trains on this one. A queue ignores priorities.
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
    """Holds about `capacity` trajectories in samples of `batch_size`; `insert` waits while it is full.

    Deviation: IMPALA trains on each sample once. Here it is used `sample_reuse` times, with `REUSE_DISTANCE` new
    samples between two uses so that no update repeats the data of the one before: docs/decisions/0005-pong.md.
    """

    REUSE_DISTANCE = 4

    def __init__(self, layout: RecordLayout, batch_size: int, capacity: int, sample_reuse: int = 1) -> None:
        self._layout, self._batch_size = layout, batch_size
        self._recent: collections.deque[Sample] = collections.deque(maxlen=self.REUSE_DISTANCE * (sample_reuse - 1) + 1)
        self._due_again: list[Sample] = []  # samples to use again before the next new one
        self._ready: queue.Queue[Sample] = queue.Queue(max(1, capacity // batch_size))
        self._records = layout.empty(batch_size)  # of the sample that is being filled
        self._filled = 0
        self._closed = threading.Event()
        self.insert_wait_seconds, self.assembly_seconds = 0.0, 0.0  # samples are assembled by `insert`
        self._num_inserted = self._num_sampled = 0  # trajectories

    def insert(self, records: Any) -> None:
        """Adds records of `layout`; waits while the queue is full."""
        self._num_inserted += len(records)
        while len(records):
            count = min(len(records), self._batch_size - self._filled)
            self._records[self._filled : self._filled + count] = records[:count]
            self._filled += count
            records = records[count:]
            if self._filled == self._batch_size:
                self._filled = 0
                self._put(self._to_sample(self._records))

    def sample(self, timeout: float) -> Sample | None:
        """The next sample, or None if there is none within `timeout` seconds."""
        if self._due_again:
            return self._due_again.pop()._replace(num_new_steps=0)
        try:
            sample = self._ready.get(timeout=timeout)
        except queue.Empty:
            return None
        self._num_sampled += self._batch_size
        self._recent.appendleft(sample)
        self._due_again = list(self._recent)[self.REUSE_DISTANCE :: self.REUSE_DISTANCE]
        return sample

    def example(self) -> Sample:
        """See TrajectoryBuffer."""
        return self._to_sample(self._layout.empty(self._batch_size))

    @property
    def exhausted(self) -> bool:
        """See TrajectoryBuffer."""
        return self._num_sampled == self._num_inserted and not self._due_again

    def update_priorities(self, keys: Any, priorities: Any) -> None:
        """Does nothing: a queue has no priorities."""

    def discard(self, sample: Sample, priorities: Any) -> None:
        """See TrajectoryBuffer: the sample is not used again."""
        kept = [other for other in self._recent if other.trajectory is not sample.trajectory]
        self._recent = collections.deque(kept, maxlen=self._recent.maxlen)
        self._due_again = [other for other in self._due_again if other.trajectory is not sample.trajectory]

    def gauges(self) -> dict[str, Callable[[], float]]:
        """See TrajectoryBuffer."""
        return {"queue/fill": lambda: self.fill}

    def close(self) -> None:
        """Releases an `insert` that waits; its sample is discarded."""
        self._closed.set()

    @property
    def fill(self) -> float:
        """Samples that are ready, as a fraction of the capacity."""
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

    def _to_sample(self, records: Any) -> Sample:
        trajectory = self._layout.view(records)  # [B, T+1, ...]
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
    """Tensors of arrays [B, ...]; if `time_first`, of [B, T, ...] with the first two axes swapped."""

    def convert(array: Any) -> tf.Tensor:
        return tf.constant(np.ascontiguousarray(array.swapaxes(0, 1)) if time_first else array)

    return tf.nest.map_structure(lambda x: None if x is None else convert(x), nest)
