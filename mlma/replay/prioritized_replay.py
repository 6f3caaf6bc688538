"""The prioritized replay of Ape-X and R2D2: Schaul et al. 2016 (arXiv 1511.05952); Horgan et al. 2018, section 3.

Stores trajectories, and samples windows of them. Where windows start is up to the algorithm
(mlma.core.types.ReplayWindowSpec). A window may reach into the trajectories that continue its first one; it can be
sampled once all of them have arrived, at first with the priority that its actor computed.

Threads: one inserts, one samples and updates priorities, one may save. The lock is held for numbers only, never while
frames are copied. So a trajectory may be overwritten while its frames are read; the sample is then drawn again.

* Deviation: Ape-X removes the excess over a soft capacity every 100 learner steps; this is a ring buffer, which
  overwrites the oldest trajectory at once, so that its memory is fixed and can be checked at the start.
* Deviation: R2D2's actors send overlapping sequences; here they are cut when they are sampled, so that each frame is
  stored once.
* Deviation: each learner has a replay of its own instead of a share of a common one, so that it samples locally.

More reasons are in docs/decisions/0008-replay.md.
Not here: the sum tree (mlma/replay/sum_tree.py), frames and memory (mlma/replay/trajectory_store.py), which trajectory
continues which (mlma/replay/trajectory_links.py), the replay ratio (mlma/replay/rate_limiter.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlma.core.record_layout import RecordLayout
from mlma.core.types import ReplayWindowSpec, Sample
from mlma.replay.rate_limiter import RateLimiter
from mlma.replay.sum_tree import SumTree
from mlma.replay.trajectory_links import TrajectoryLinks
from mlma.replay.trajectory_store import TrajectoryStore

MIN_PRIORITY = 1e-6  # added to each priority, so that a window with TD error 0 can still be sampled
MAX_LEAF = 1e100  # of the sum tree, so that its sums stay finite


class SampledWindows(NamedTuple):
    """B windows that were drawn."""

    keys: Any  # int64 [B], serial of the first trajectory * T + step
    chain: Any  # int64 [B, K], serials of the trajectories that the window may reach into
    weights: Any  # float32 [B], importance weights


class PrioritizedReplay:
    """See the module docstring. Slots, serials, chains and K are those of mlma/replay/trajectory_links.py."""

    def __init__(
        self,
        layout: RecordLayout,
        windows: ReplayWindowSpec,
        rate_limiter: RateLimiter,
        capacity: int,  # steps, rounded up to trajectories
        batch_size: int,
        exponents: tuple[float, float],  # alpha of priorities, beta of importance weights
        sequence_priorities: Callable[[Any, Any], Any],  # from TD errors and mask, [L, N] both: see Agent
        seed: int = 0,
        compress: bool = False,
    ) -> None:
        """`compress`: whether to store frames compressed, which is slower.

        ValueError if a size is not positive or an exponent is none of Schaul et al.
        """
        if capacity < 1 or batch_size < 1:
            raise ValueError(f"a replay of {capacity} steps with samples of {batch_size}: both must be at least 1")
        if not (0 <= exponents[0] < np.inf and 0 <= exponents[1] <= 1):
            raise ValueError(f"exponents {exponents}: that of priorities is at least 0, that of weights in [0, 1]")
        self._layout, self._windows, self._rate_limiter = layout, windows, rate_limiter
        self._batch_size, (self._alpha, self._beta) = batch_size, exponents
        self._sequence_priorities = sequence_priorities
        length = layout.spec.timesteps.observation.shape[0] - 1  # T
        # Transitions from step 0 of a window's first trajectory to the end of the window, at most.
        reach = length - 1 + windows.length if windows.every_step else max(length - 1, windows.burn_in) + windows.length
        depth = -(-reach // length)  # K
        self._slots = max(depth + 1, -(-capacity // length))
        self._length = length
        self._links = TrajectoryLinks(self._slots, depth)
        self.store = TrajectoryStore(layout.spec, self._slots, compress)
        # A leaf per step: (priority + MIN_PRIORITY)^alpha, or 0 where no window starts.
        self._tree = SumTree(self._slots * length)
        self._num_new_steps = 0  # inserted since the last sample
        self._num_windows = 0
        self._num_redrawn = 0  # samples that were drawn again
        self._lock = threading.Lock()
        self._rng = np.random.default_rng(seed)
        self.insert_wait_seconds, self.assembly_seconds = 0.0, 0.0
        self.exhausted = False

    # -- insert

    def insert(self, records: Any) -> None:
        """Adds records of the layout; waits while the learner is behind."""
        for i in range(0, len(records), self._slots):
            # Without a window to sample the learner cannot catch up, so then there is no wait.
            began = time.perf_counter()
            if self._num_windows and not self._rate_limiter.wait_to_insert():
                return
            self.insert_wait_seconds += time.perf_counter() - began
            part = records[i : i + self._slots]
            self.put(part)
            with self._lock:
                self._num_new_steps += len(part) * self._length
            self._rate_limiter.inserted(len(part) * self._length)

    def insert_restored(self, records: Any) -> Any:
        """Adds records of a snapshot, which count for the minimum fill only. Returns their serials."""
        parts = [records[i : i + self._slots] for i in range(0, len(records), self._slots)]  # this one may be smaller
        serials = np.concatenate([self.put(part) for part in parts])
        self._rate_limiter.inserted(len(records) * self._length, restored=True)
        return serials

    def put(self, records: Any) -> Any:
        """Overwrites the oldest trajectories, without waiting or counting. Returns the new serials. The records must
        not be more than there are slots."""
        trajectories = self._layout.view(records)
        with self._lock:
            serials = self._links.allocate(len(records))
            slots = serials % self._slots
            leaves = self._leaves(slots)
            self._num_windows -= int(np.count_nonzero(self._tree.get(leaves)))
            self._tree.set(leaves, 0.0)
            self._links.remove(slots)
        self.store.write(slots, trajectories)  # nothing reads slots without a serial
        with self._lock:
            self._links.add(serials, trajectories.env_stream_id, trajectories.sequence_number)
            self._add_windows(self._links.chains_ending_with(serials))
        return serials

    def _leaves(self, slots: Any) -> Any:
        """The leaves of all steps of these slots [N]: [N * T]."""
        return (slots[:, None] * self._length + np.arange(self._length)).ravel()

    def _add_windows(self, chains: Any) -> None:
        """Makes the windows that start in the first trajectory of these chains [N, K] available to `sample`."""
        if not len(chains):
            return
        rows, steps, priorities = self._find_windows(chains % self._slots)
        self._set_priorities(chains[rows, 0] % self._slots * self._length + steps, priorities)

    def _set_priorities(self, leaves: Any, priorities: Any) -> None:
        """Sets the priorities of windows; a window whose priority is not a finite number of at least 0 is removed."""
        valid = np.isfinite(priorities) & (priorities >= 0)
        with np.errstate(over="ignore"):
            values = (np.where(valid, priorities, 0.0) + MIN_PRIORITY) ** self._alpha
        values = np.where(valid & (values <= MAX_LEAF), values, 0.0)
        leaves, first = np.unique(leaves, return_index=True)
        before = np.count_nonzero(self._tree.get(leaves))
        self._tree.set(leaves, values[first])
        self._num_windows += int(np.count_nonzero(values[first]) - before)

    def _find_windows(self, chain: Any) -> tuple[Any, Any, Any]:
        """(row, step, initial priority) of the windows that start in the first slot of each chain of slots [N, K]."""
        first = self.store.join_chain(self.store.steps["is_first"], chain, last=True)  # [N, K * T + 1]
        td_errors = self.store.join_chain(self.store.initial_priorities, chain)  # [N, K * T]
        length, burn_in = self._length, self._windows.burn_in
        if self._windows.every_step:
            rows, steps = np.nonzero(~first[:, 1 : length + 1])
            return rows, steps, td_errors[rows, steps].astype(np.float64)
        # Deviation: R2D2 does not say how it treats the steps before the first complete burn-in of an episode. Here a
        # sequence also starts with each episode, from the known zero state; otherwise these steps would never be
        # learned from.
        starts = first[:, :length] & ~first[:, 1 : length + 1]
        # At step 0, with the stored state, if the burn-in and the first transition after it are of one episode.
        starts[:, 0] |= ~first[:, : burn_in + 2].any(axis=1)
        rows, steps = np.nonzero(starts)
        learned = steps + burn_in * ~first[rows, steps] + np.arange(self._windows.length)[:, None]  # [length, M]
        mask = np.cumprod(~first[rows, learned + 1], axis=0, dtype=np.float32)
        priorities = self._sequence_priorities(tf.constant(td_errors[rows, learned]), tf.constant(mask))
        return rows, steps, priorities.numpy().astype(np.float64)

    # -- sample

    def sample(self, timeout: float) -> Sample | None:
        """The next sample, or None if the rate limiter allows none within `timeout` seconds."""
        if not self._rate_limiter.wait_to_sample(timeout):
            return None
        began = time.perf_counter()
        while True:
            windows = self._draw_windows()
            if windows is None:
                time.sleep(min(timeout, 0.01))
                return None
            trajectory = self._gather(windows)
            with self._lock:
                complete = self._links.alive(windows.chain).all()
                if complete:
                    num_new_steps, self._num_new_steps = self._num_new_steps, 0
            if complete:
                break
            self._num_redrawn += 1
        self._rate_limiter.sampled()
        self.assembly_seconds = time.perf_counter() - began
        return Sample(trajectory, windows.keys, tf.constant(windows.weights), num_new_steps)

    def example(self) -> None:
        """See TrajectoryBuffer: the first sample is not far, once there is enough to draw from."""

    def _draw_windows(self) -> SampledWindows | None:
        with self._lock:
            total = self._tree.total
            if total <= 0:
                return None
            leaves = self._tree.draw(self._batch_size, self._rng)
            probabilities = self._tree.get(leaves) / total
            serials = self._links.serial_of(leaves // self._length)
            weights = (self._num_windows * probabilities) ** -self._beta
            return SampledWindows(
                keys=serials * self._length + leaves % self._length,
                chain=self._links.chain(serials),
                weights=(weights / weights.max()).astype(np.float32),  # normalised by the maximum of the sample
            )

    def _gather(self, sampled: SampledWindows) -> Any:
        """The trajectories [L, B] of these windows, as tensors."""
        windows, start = self._windows, sampled.keys % self._length
        chain = sampled.chain % self._slots
        if windows.every_step:
            starts_episode = np.zeros(len(start), bool)
        else:
            starts_episode = self.store.steps["is_first"][chain[:, 0], start]
        num_steps = windows.burn_in + windows.length + 1
        trajectory = self.store.windows(chain, start, starts_episode, windows.burn_in, num_steps)
        tensors = tf.nest.map_structure(lambda x: None if x is None else tf.constant(x), trajectory)
        return tensors._replace(weights_version=trajectory.weights_version)

    def update_priorities(self, keys: Any, priorities: Any) -> None:
        """Sets the priorities of windows; those that were overwritten or removed meanwhile are ignored.

        A window whose priority is not a finite number of at least 0 is removed. IndexError for a key that no sample can
        have had.
        """
        keys, priorities = np.asarray(keys, np.int64), np.asarray(priorities, np.float64)
        if keys.shape != priorities.shape:
            raise ValueError(f"{keys.size} windows have {priorities.size} priorities")
        with self._lock:
            known = self._links.num_inserted * self._length
            if not ((keys >= 0) & (keys < known)).all():
                raise IndexError(f"the keys of windows are 0 to {known - 1} so far")
            serials = keys // self._length
            alive = self._links.alive(serials)
            leaves = serials[alive] % self._slots * self._length + keys[alive] % self._length
            sampled = self._tree.get(leaves) > 0  # a window, which is drawn in proportion to this
            self._set_priorities(leaves[sampled], priorities[alive][sampled])

    def discard(self, sample: Sample, priorities: Any) -> None:
        """See TrajectoryBuffer: removes the windows whose priorities are not finite, or all if that tells nothing."""
        keys, invalid = np.asarray(sample.keys), ~np.isfinite(np.asarray(priorities))
        keys = keys[invalid] if invalid.any() else keys
        self.update_priorities(keys, np.full(len(keys), np.nan))

    # -- snapshots, metrics

    def stored_serials(self) -> Any:
        """The serials of all trajectories, oldest first."""
        with self._lock:
            return self._links.stored()

    def read(self, serials: Any) -> tuple[Any, Any]:
        """(records, leaves [N, T]) of those of these trajectories that are still in the replay."""
        with self._lock:
            serials = serials[self._links.alive(serials)]
        records = self._layout.empty(len(serials))
        view, slots = self._layout.view(records), serials % self._slots
        self.store.read(slots, view)
        view.env_stream_id[:], view.sequence_number[:] = self._links.positions(slots)
        leaves = self._tree.get(self._leaves(slots)).reshape(-1, self._length)
        with self._lock:
            intact = self._links.alive(serials)
        return records[intact], leaves[intact]

    def restore_leaves(self, serials: Any, leaves: Any) -> None:
        """Sets the leaves [N, T] of these trajectories, where there is a window that can be sampled. One that is 0
        had been removed."""
        with self._lock:
            alive = self._links.alive(serials)
            indices = self._leaves(serials[alive] % self._slots)
            has_window = self._tree.get(indices) > 0
            values = leaves[alive].ravel()[has_window]
            self._tree.set(indices[has_window], values)
            self._num_windows -= int(np.count_nonzero(values == 0))

    @property
    def layout(self) -> RecordLayout:
        """The layout of the records."""
        return self._layout

    @property
    def fill(self) -> float:
        """How full the replay is, from 0 to 1."""
        return min(1.0, self._links.num_inserted / self._slots)

    def gauges(self) -> dict[str, Callable[[], float]]:
        """See TrajectoryBuffer."""
        return {
            "queue/fill": lambda: self.fill,
            "replay/steps": lambda: float(self._num_trajectories() * self._length),
            "replay/windows": lambda: float(self._num_windows),
            "replay/ratio": lambda: self._rate_limiter.ratio,
            "replay/bytes_per_step": self.bytes_per_step,
            "replay/drawn_anew": lambda: float(self._num_redrawn),
        }

    def _num_trajectories(self) -> int:
        return min(self._links.num_inserted, self._slots)

    def bytes_per_step(self) -> float:
        """Memory of a step in the store, without the sum tree's."""
        return self.store.bytes_of_slots(self._num_trajectories()) / self._length

    def close(self) -> None:
        """Releases an `insert` that waits."""
        self._rate_limiter.close()
