"""What a replay remembers of its trajectories, slot by slot, and how windows are cut out of several that follow each other.

Frames are kept once, as they travelled (with the few before a trajectory that its first stack needs), and gathered for a whole
sample at once. Not here: which windows, and in which slots (mlma/replay/prioritized_replay.py); the stacks themselves (agents/networks/zoo.py).
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mlma.core.types import ActOutput, NetworkState, TimeStep, Trajectory

STEP_FIELDS = ("reward", "discount", "is_first", "last_action")
OBJECT_BYTES = 41  # bytes of a compressed frame beside its own: header of the object, pointer to it


class PlainFrames:
    def __init__(self, count: int, shape: tuple[int, ...], dtype: str) -> None:
        self._frames = np.zeros((count, *shape), dtype)  # memory is taken as it is written

    def bytes_each(self, written: int) -> float:
        return self._frames[0].nbytes

    def write(self, where: Any, frames: Any) -> None:
        self._frames[where] = frames

    def read(self, where: Any) -> Any:
        return self._frames.take(where, axis=0, mode="clip")


class CompressedFrames:
    """Each frame by itself, lossless, so that a window costs no more than its own frames."""

    LEVEL = 1

    def __init__(self, count: int, shape: tuple[int, ...], dtype: str) -> None:
        self._frames: list[bytes] = [b""] * count
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._bytes = 0

    def bytes_each(self, written: int) -> float:
        return self._bytes / max(1, written)

    def write(self, where: Any, frames: Any) -> None:
        for place, frame in zip(where.ravel(), frames.reshape(-1, *self._shape), strict=True):
            packed = zlib.compress(frame.tobytes(), self.LEVEL)
            before = self._frames[place]
            self._bytes += len(packed) - len(before) + (0 if before else OBJECT_BYTES)
            self._frames[place] = packed

    def read(self, where: Any) -> Any:
        frames = np.zeros((where.size, *self._shape), self._dtype)
        for frame, place in zip(frames, where.ravel(), strict=True):
            if packed := self._frames[place]:
                frame[...] = np.frombuffer(zlib.decompress(packed), self._dtype).reshape(self._shape)
        return frames.reshape(*where.shape, *self._shape)


class TrajectoryStore:
    """`slots` trajectories of `spec` (mlma.core.record_layout.trajectory_spec)."""

    def __init__(self, spec: Trajectory, slots: int, compress: bool) -> None:
        observation = spec.timesteps.observation
        self.length = observation.shape[0] - 1  # T
        state = spec.agent_state
        before = state.frames if isinstance(state, NetworkState) else None
        self._core = None if not isinstance(state, NetworkState) or state.core is None else state.core
        self._before = before.shape[0] if before is not None else 0  # frames kept from before step 0
        self._row = self._before + self.length + 1
        self.steps = {name: _zeros(slots, each) for name, each in _step_fields(spec.timesteps).items()}
        self.action = _zeros(slots, spec.act_outputs.action)
        self.initial_priorities = _zeros(slots, spec.initial_priorities)
        self.version = np.zeros(slots, np.int64)
        self.core = None if self._core is None else tuple(_zeros(slots, part) for part in self._core)
        kind = CompressedFrames if compress else PlainFrames
        self._frames: Any = kind(slots * self._row, observation.shape[1:], observation.dtype)

    def bytes_of_slots(self, written: int) -> float:
        """Of each slot, after so many have been written."""
        arrays = [*self.steps.values(), self.action, self.initial_priorities, self.version, *(self.core or ())]
        return sum(array[0].nbytes for array in arrays) + self._row * self._frames.bytes_each(written * self._row)

    def write(self, slots: Any, trajectories: Trajectory) -> None:
        given = _step_fields(trajectories.timesteps)
        for name, array in self.steps.items():
            array[slots] = given[name]
        self.action[slots] = trajectories.act_outputs.action
        self.initial_priorities[slots] = trajectories.initial_priorities
        self.version[slots] = trajectories.weights_version
        if self.core is not None:
            for array, value in zip(self.core, trajectories.agent_state.core, strict=True):
                array[slots] = value
        rows = np.asarray(slots)[:, None] * self._row  # [N, 1]
        if self._before:
            self._frames.write(rows + np.arange(self._before), trajectories.agent_state.frames)
        self._frames.write(rows + np.arange(self._before, self._row), trajectories.timesteps.observation)

    def read(self, slots: Any, trajectories: Trajectory) -> None:
        """The inverse of `write`: fills the fields that it keeps."""
        wanted = _step_fields(trajectories.timesteps)
        for name, array in self.steps.items():
            wanted[name][:] = array[slots]
        trajectories.act_outputs.action[:] = self.action[slots]
        trajectories.initial_priorities[:] = self.initial_priorities[slots]
        trajectories.weights_version[:] = self.version[slots]
        for array, value in zip(self.core or (), trajectories.agent_state.core or (), strict=True):
            value[:] = array[slots]
        rows = np.asarray(slots)[:, None] * self._row
        if self._before:
            trajectories.agent_state.frames[:] = self._frames.read(rows + np.arange(self._before))
        trajectories.timesteps.observation[:] = self._frames.read(rows + np.arange(self._before, self._row))

    def chained(self, array: Any, chain: Any, last: bool = False) -> Any:
        """A field [slots, T+1 or T] over trajectories in a row: [N, K] slots -> [N, K * T], and one step more if `last`."""
        joined = array[chain, : self.length].reshape(len(chain), -1)  # [N, K * T]
        return np.concatenate([joined, array[chain[:, -1], self.length :][:, :1]], axis=1) if last else joined

    def windows(self, chain: Any, start: Any, opens: Any, burn_in: int, steps: int) -> Trajectory:
        """`steps` steps from `start` [B] on, of the trajectories in `chain` [B, K] slots; time first.

        Where `opens`, the window begins with its game: `burn_in` zeros come before it, and the state is zero.
        """
        batch, depth = chain.shape
        window = np.arange(steps)[:, None]
        at = start + window - burn_in * opens  # [L, B], from step 0 of the first trajectory
        nothing = opens & (window < burn_in)  # [L, B]
        which = np.clip(at // self.length, 0, depth - 1)
        step = np.clip(at - which * self.length, 0, self.length)
        slot = chain[np.arange(batch), which]  # [L, B]
        fields = {name: array[slot, step] for name, array in self.steps.items()}
        fields["is_first"] &= ~nothing
        observation = self._frames.read(slot * self._row + self._before + step)  # [L, B, ...]
        if nothing.any():
            observation[nothing] = 0
        more = {name: fields.pop(name) for name in list(fields) if name not in STEP_FIELDS}
        none = np.zeros(0)
        return Trajectory(
            agent_state=NetworkState(self._frames_before(chain[:, 0], start, opens), self._core_of(chain[:, 0], opens)),
            timesteps=TimeStep(
                observation=observation, episode_return=none, episode_frames=none, extras=more, **fields
            ),
            act_outputs=ActOutput(self.action[slot, step], none, none),
            weights_version=self.version[chain[:, 0]],
            actor_id=none,
        )

    def _core_of(self, slots: Any, opens: Any) -> Any:
        if self.core is None:
            return None
        return tuple(part[slots] * ~opens[:, None] for part in self.core)

    def _frames_before(self, slots: Any, start: Any, opens: Any) -> Any:
        """The frames before `start`, zero where they are of another game: [B, k-1, H, W, C]."""
        if not self._before:
            return None
        frames = self._frames.read(slots[:, None] * self._row + start[:, None] + np.arange(self._before))
        other = opens.copy()  # whether the frame of this age is of another game
        for age in range(1, self._before + 1):
            if age > 1:
                newer = start - age + 1  # what was before step 0 is zeroed already where it must be
                other |= (newer >= 0) & self.steps["is_first"][slots, np.maximum(newer, 0)]
            if other.any():
                frames[other, self._before - age] = 0
        return frames


def _step_fields(timesteps: TimeStep) -> dict[str, Any]:
    """What is kept of each step beside its observation."""
    return {name: getattr(timesteps, name) for name in STEP_FIELDS} | timesteps.extras


def _zeros(slots: int, spec: Any) -> Any:
    return np.zeros((slots, *spec.shape), spec.dtype)


ASSUMED_COMPRESSION = 0.25  # of the bytes of frames: what is reckoned with before a frame has been seen


def check_fits(spec: Trajectory, capacity: int, compress: bool, copies: int) -> None:
    """ValueError with the figures if `copies` replays of `capacity` steps do not fit into this machine's memory."""
    length = spec.timesteps.observation.shape[0] - 1
    each = (
        TrajectoryStore(spec, 1, compress=False).bytes_of_slots(1) / length * (ASSUMED_COMPRESSION if compress else 1.0)
        + SUM_TREE_BYTES_PER_STEP
    )
    free = available_memory()
    needed = each * capacity * copies
    if needed > free:
        raise ValueError(
            f"--replay_capacity={capacity}: {copies} x {capacity:,} steps of {each:,.0f} bytes need {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free; at most {int(free / each / copies):,} fit"
        )


SUM_TREE_BYTES_PER_STEP = 40  # bytes of a step in the sum tree, at most


def available_memory() -> float:
    """Bytes that this process may still take: of the machine, or of the container that it runs in."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = ((Path("/sys/fs/cgroup") / name).read_text().strip() for name in (limit, used))
        except OSError:
            continue
        if most.isdigit():
            free = min(free, float(int(most) - int(now)))
    return min(free, float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
