"""PrioritizedReplay: the memory of Ape-X and R2D2. Schaul et al. 2016 (arXiv 1511.05952); Horgan et al. 2018, section 3.

Keeps trajectories whole, first in first out, and remembers which goes on where another one ends. What is drawn are windows:
they begin where the algorithm says (mlma.core.types.ReplayWindowSpec), with the priorities that the actors gave them, as soon as all the
trajectories that they reach into have come. Threads: one inserts, one samples and updates, one may save; the lock is held for
numbers only, never while frames are copied: a window whose trajectory was overwritten meanwhile is drawn anew.
Not here: the sum tree (mlma/replay/sum_tree.py), frames and memory (mlma/replay/trajectory_store.py), who waits for whom (mlma/replay/rate_limiter.py).
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
from mlma.replay.trajectory_store import TrajectoryStore

MIN_PRIORITY = 1e-6  # added to a priority: what is learned perfectly is still seen now and then
NONE = -1


class SampledWindows(NamedTuple):
    """Windows that were drawn: B of them."""

    keys: Any  # int64 [B]: serial of the trajectory * T + step
    chain: Any  # int64 [B, K], serials of the trajectories that it reaches into
    weights: Any  # float32 [B], importance weights


class PrioritizedReplay:
    """A trajectory is known by its serial, which counts those inserted; until overwritten it lies in slot serial % slots."""

    def __init__(
        self,
        layout: RecordLayout,
        windows: ReplayWindowSpec,
        pace: RateLimiter,
        capacity: int,
        batch_size: int,
        exponents: tuple[float, float],  # alpha of priorities, beta of importance weights
        sequence_priorities: Callable[[Any, Any], Any],  # of TD errors and mask, [L, N] each: see Agent
        seed: int = 0,
        compress: bool = False,
    ) -> None:
        self._layout, self._windows, self._pace = layout, windows, pace
        self._batch_size, (self._alpha, self._beta) = batch_size, exponents
        self._sequence_priorities = sequence_priorities
        length = layout.spec.timesteps.observation.shape[0] - 1
        reach = length - 1 + windows.length if windows.every_step else max(length - 1, windows.burn_in) + windows.length
        self._depth = -(-reach // length)  # K, trajectories that a window may reach into
        self._slots = max(self._depth + 1, -(-capacity // length))
        self._length = length
        self.store = TrajectoryStore(layout.spec, self._slots, compress)
        self._tree = SumTree(self._slots * length)
        self._serial = np.full(self._slots, NONE, np.int64)
        self._next = np.full(self._slots, NONE, np.int64)  # serial of what goes on where this one ends
        self._before = np.full(self._slots, NONE, np.int64)
        self.streams = np.zeros((self._slots, 2), np.int64)  # stream and number
        self._latest: dict[int, int] = {}  # stream -> serial of its last trajectory
        self._count = 0  # serials given out
        self._new_steps = 0
        self._windows_held = 0
        self._torn = 0  # samples drawn anew
        self._lock = threading.Lock()
        self._rng = np.random.default_rng(seed)
        self.insert_wait_seconds, self.assembly_seconds = 0.0, 0.0
        self.exhausted = False

    # -- insert

    def insert(self, records: Any) -> None:
        """Takes records of the layout; waits while the learner has too much to catch up with."""
        for i in range(0, len(records), self._slots):
            # Without a window to draw the learner cannot catch up, however far it is behind.
            began = time.perf_counter()
            if self._windows_held and not self._pace.wait_to_insert():
                return
            self.insert_wait_seconds += time.perf_counter() - began
            part = records[i : i + self._slots]
            self.put(part)
            with self._lock:
                self._new_steps += len(part) * self._length
            self._pace.inserted(len(part) * self._length)

    def restored(self, records: Any) -> Any:
        """As `put`, of a saved replay: counts for the fill and for nothing else."""
        serials = self.put(records)
        self._pace.inserted(len(records) * self._length, restored=True)
        return serials

    def put(self, records: Any) -> Any:
        """Overwrites the oldest. Returns their serials."""
        trajectories = self._layout.view(records)
        with self._lock:
            serials = np.arange(self._count, self._count + len(records))
            self._count += len(records)
            slots = serials % self._slots
            self._remove(slots)
        self.store.write(slots, trajectories)  # nobody reads slots without a serial
        with self._lock:
            self._serial[slots] = serials
            self.streams[slots, 0], self.streams[slots, 1] = trajectories.env_stream_id, trajectories.sequence_number
            self._link(serials, trajectories)
            self._activate(serials)
        return serials

    def _remove(self, slots: Any) -> None:
        for slot in slots[self._serial[slots] != NONE]:
            stream = int(self.streams[slot, 0])
            if self._latest.get(stream) == self._serial[slot]:
                del self._latest[stream]
        leaves = self._leaves(slots)
        self._windows_held -= int(np.count_nonzero(self._tree.get(leaves)))
        self._tree.set(leaves, 0.0)
        self._serial[slots] = self._next[slots] = self._before[slots] = NONE

    def _leaves(self, slots: Any) -> Any:
        return (slots[:, None] * self._length + np.arange(self._length)).ravel()

    def _link(self, serials: Any, trajectories: Any) -> None:
        for serial, stream, number in zip(
            serials.tolist(), trajectories.env_stream_id.tolist(), trajectories.sequence_number.tolist(), strict=True
        ):
            before = self._latest.get(stream, NONE)
            if before != NONE and self.streams[before % self._slots, 1] + 1 == number:
                self._next[before % self._slots] = serial
                self._before[serial % self._slots] = before
            self._latest[stream] = serial

    def _alive(self, serials: Any) -> Any:
        return (serials >= 0) & (self._serial[serials % self._slots] == serials)

    def _activate(self, serials: Any) -> None:
        """The windows of which one of these is the last trajectory that they reach into can be drawn from now on."""
        first = serials
        for _ in range(self._depth - 1):
            first = np.where(self._alive(first), self._before[first % self._slots], NONE)
        first = first[self._alive(first)]
        if not len(first):
            return
        rows, steps, priorities = self._begin(self._chain(first) % self._slots)
        leaves = first[rows] % self._slots * self._length + steps
        self._tree.set(leaves, (priorities + MIN_PRIORITY) ** self._alpha)
        self._windows_held += len(leaves)

    def _chain(self, serials: Any) -> Any:
        """[N] -> [N, K] serials."""
        chain = [serials]
        for _ in range(self._depth - 1):
            chain.append(self._next[chain[-1] % self._slots])
        return np.stack(chain, axis=1)

    def _begin(self, chain: Any) -> tuple[Any, Any, Any]:
        """Where windows begin in the first trajectory of each chain of slots [N, K], and the actors' priorities of them."""
        first = self.store.chained(self.store.steps["is_first"], chain, last=True)  # [N, K * T + 1]
        errors = self.store.chained(self.store.initial_priorities, chain)  # [N, K * T]
        length, burn_in = self._length, self._windows.burn_in
        if self._windows.every_step:
            rows, steps = np.nonzero(~first[:, 1 : length + 1])
            return rows, steps, errors[rows, steps].astype(np.float64)
        begins = first[:, :length] & ~first[:, 1 : length + 1]
        # With a stored state: what warms it up, and the first transition after it, must be of one game.
        begins[:, 0] |= ~first[:, : burn_in + 2].any(axis=1)
        rows, steps = np.nonzero(begins)
        learned = steps + burn_in * ~first[rows, steps] + np.arange(self._windows.length)[:, None]  # [length, M]
        mask = np.cumprod(~first[rows, learned + 1], axis=0, dtype=np.float32)
        priorities = self._sequence_priorities(tf.constant(errors[rows, learned]), tf.constant(mask))
        return rows, steps, priorities.numpy().astype(np.float64)

    # -- sample

    def sample(self, timeout: float) -> Sample | None:
        """The next sample, or None if the pace allows none within `timeout` seconds."""
        if not self._pace.wait_to_sample(timeout):
            return None
        began = time.perf_counter()
        while True:
            draw = self._draw()
            if draw is None:
                time.sleep(min(timeout, 0.01))
                return None
            trajectory = self._cut(draw)
            with self._lock:
                whole = self._alive(draw.chain).all()
                new_steps, self._new_steps = (0, self._new_steps) if not whole else (self._new_steps, 0)
            if whole:
                break
            self._torn += 1
        self._pace.sampled()
        self.assembly_seconds = time.perf_counter() - began
        return Sample(trajectory, draw.keys, tf.constant(draw.weights), new_steps)

    def _draw(self) -> SampledWindows | None:
        with self._lock:
            total = self._tree.total
            if total <= 0:
                return None
            leaves = self._tree.draw(self._batch_size, self._rng)
            probabilities = self._tree.get(leaves) / total
            slots = leaves // self._length
            serials = self._serial[slots]
            weights = (self._windows_held * probabilities) ** -self._beta
            return SampledWindows(
                keys=serials * self._length + leaves % self._length,
                chain=self._chain(serials),
                weights=(weights / weights.max()).astype(np.float32),
            )

    def _cut(self, draw: SampledWindows) -> Any:
        windows, start = self._windows, draw.keys % self._length
        chain = draw.chain % self._slots
        opens = np.zeros(len(start), bool) if windows.every_step else self.store.steps["is_first"][chain[:, 0], start]
        trajectory = self.store.windows(chain, start, opens, windows.burn_in, windows.burn_in + windows.length + 1)
        made = tf.nest.map_structure(lambda x: None if x is None else tf.constant(x), trajectory)
        return made._replace(weights_version=trajectory.weights_version)

    def update_priorities(self, keys: Any, priorities: Any) -> None:
        """Those of windows that are gone are ignored."""
        keys, priorities = np.asarray(keys), np.asarray(priorities, np.float64)
        with self._lock:
            serials = keys // self._length
            here = self._alive(serials)
            leaves = serials[here] % self._slots * self._length + keys[here] % self._length
            self._tree.set(leaves, (priorities[here] + MIN_PRIORITY) ** self._alpha)

    # -- around it

    def held(self) -> Any:
        """The serials of all trajectories, oldest first."""
        with self._lock:
            return np.sort(self._serial[self._serial != NONE])

    def read(self, serials: Any) -> tuple[Any, Any]:
        """(records, leaves [N, T]) of those of these trajectories that are still here."""
        with self._lock:
            serials = serials[self._alive(serials)]
        records = self._layout.empty(len(serials))
        view, slots = self._layout.view(records), serials % self._slots
        self.store.read(slots, view)
        view.env_stream_id[:], view.sequence_number[:] = self.streams[slots].T
        leaves = self._tree.get(self._leaves(slots)).reshape(-1, self._length)
        with self._lock:
            whole = self._alive(serials)
        return records[whole], leaves[whole]

    def set_leaves(self, serials: Any, leaves: Any) -> None:
        """The priorities of a saved replay, for windows that can be drawn."""
        with self._lock:
            alive = self._alive(serials)
            places = self._leaves(serials[alive] % self._slots)
            values = leaves[alive].ravel()
            places, values = places[values > 0], values[values > 0]
            known = self._tree.get(places) > 0
            self._tree.set(places[known], values[known])

    @property
    def layout(self) -> RecordLayout:
        return self._layout

    @property
    def fill(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self._count / self._slots)

    def gauges(self) -> dict[str, Callable[[], float]]:
        return {
            "queue/fill": lambda: self.fill,
            "replay/steps": lambda: float(min(self._count, self._slots) * self._length),
            "replay/windows": lambda: float(self._windows_held),
            "replay/ratio": lambda: self._pace.ratio,
            "replay/bytes_per_step": self.bytes_per_step,
            "replay/drawn_anew": lambda: float(self._torn),
        }

    def bytes_per_step(self) -> float:
        return self.store.bytes_of_slots(min(self._count, self._slots)) / self._length

    def close(self) -> None:
        self._pace.close()
