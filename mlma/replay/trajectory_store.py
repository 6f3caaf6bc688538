"""The data of a replay: the fields of its trajectories, slot by slot, and windows cut from consecutive trajectories.

Frames are stored once, as they travelled (with the few before a trajectory that its first stack needs), and gathered
for a whole sample at once. Not here: which windows, and in which slots (mlma/replay/prioritized_replay.py); frame
stacking (agents/networks/frame_stack.py).
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from mlma.core.types import ActOutput, NetworkState, TimeStep, Trajectory
from mlma.utils.memory import available_memory

STEP_FIELDS = ("reward", "discount", "is_first", "last_action")
OBJECT_BYTES = 41  # overhead of a compressed frame: object header, and the pointer to it
ASSUMED_COMPRESSION = 0.25  # compressed size of frames that `check_fits` assumes
SUM_TREE_BYTES_PER_STEP = 40  # at most


class PlainFrames:
    """Frames in one array, whose memory the operating system allocates as it is written."""

    def __init__(self, count: int, shape: tuple[int, ...], dtype: str) -> None:
        self._frames = np.zeros((count, *shape), dtype)

    def bytes_each(self, written: int) -> float:
        """Memory per frame, after `written` frames have been written."""
        return self._frames[0].nbytes

    def write(self, indices: Any, frames: Any) -> None:
        """Stores frames [*indices.shape, ...]."""
        self._frames[indices] = frames

    def read(self, indices: Any) -> Any:
        """The frames [*indices.shape, ...]; indices out of range are clipped."""
        return self._frames.take(indices, axis=0, mode="clip")


class CompressedFrames:
    """Frames that are compressed one by one without loss, so that reading a window decompresses only its own frames."""

    LEVEL = 1  # of zlib, the fastest

    def __init__(self, count: int, shape: tuple[int, ...], dtype: str) -> None:
        self._frames: list[bytes] = [b""] * count
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._bytes = 0

    def bytes_each(self, written: int) -> float:
        """See PlainFrames."""
        return self._bytes / max(1, written)

    def write(self, indices: Any, frames: Any) -> None:
        """See PlainFrames."""
        for index, frame in zip(indices.ravel(), frames.reshape(-1, *self._shape), strict=True):
            compressed = zlib.compress(frame.tobytes(), self.LEVEL)
            overwritten = self._frames[index]
            self._bytes += len(compressed) - len(overwritten) + (0 if overwritten else OBJECT_BYTES)
            self._frames[index] = compressed

    def read(self, indices: Any) -> Any:
        """See PlainFrames; a frame that was never written is zero."""
        frames = np.zeros((indices.size, *self._shape), self._dtype)
        for frame, index in zip(frames, indices.ravel(), strict=True):
            if compressed := self._frames[index]:
                frame[...] = np.frombuffer(zlib.decompress(compressed), self._dtype).reshape(self._shape)
        return frames.reshape(*indices.shape, *self._shape)


class TrajectoryStore:
    """`slots` trajectories of `spec` (mlma.core.record_layout.trajectory_spec)."""

    def __init__(self, spec: Trajectory, slots: int, compress: bool) -> None:
        observation = spec.timesteps.observation
        self.length = observation.shape[0] - 1  # T
        state = spec.agent_state
        previous_frames = state.frames if isinstance(state, NetworkState) else None
        core = None if not isinstance(state, NetworkState) or state.core is None else state.core
        self._num_previous = previous_frames.shape[0] if previous_frames is not None else 0  # frames before step 0
        self._frames_per_slot = self._num_previous + self.length + 1
        self.steps = {name: _zeros(slots, each) for name, each in _step_fields(spec.timesteps).items()}
        self.action = _zeros(slots, spec.act_outputs.action)
        self.initial_priorities = _zeros(slots, spec.initial_priorities)
        self.version, self.actor = np.zeros(slots, np.int64), np.zeros(slots, np.int32)
        self.core = None if core is None else tuple(_zeros(slots, part) for part in core)
        frames_type = CompressedFrames if compress else PlainFrames
        self._frames: Any = frames_type(slots * self._frames_per_slot, observation.shape[1:], observation.dtype)

    def bytes_of_slots(self, written: int) -> float:
        """Memory per slot, after `written` slots have been written."""
        arrays = [*self.steps.values(), self.action, self.initial_priorities, self.version, self.actor]
        arrays += self.core or ()
        bytes_per_frame = self._frames.bytes_each(written * self._frames_per_slot)
        return sum(array[0].nbytes for array in arrays) + self._frames_per_slot * bytes_per_frame

    def write(self, slots: Any, trajectories: Trajectory) -> None:
        """Stores trajectories [N] in slots [N]."""
        step_fields = _step_fields(trajectories.timesteps)
        for name, array in self.steps.items():
            array[slots] = step_fields[name]
        self.action[slots] = trajectories.act_outputs.action
        self.initial_priorities[slots] = trajectories.initial_priorities
        self.version[slots], self.actor[slots] = trajectories.weights_version, trajectories.actor_id
        if self.core is not None:
            for array, value in zip(self.core, trajectories.agent_state.core, strict=True):
                array[slots] = value
        first_frame = np.asarray(slots)[:, None] * self._frames_per_slot  # [N, 1]
        if self._num_previous:
            self._frames.write(first_frame + np.arange(self._num_previous), trajectories.agent_state.frames)
        steps = np.arange(self._num_previous, self._frames_per_slot)
        self._frames.write(first_frame + steps, trajectories.timesteps.observation)

    def read(self, slots: Any, trajectories: Trajectory) -> None:
        """The inverse of `write`: fills the fields that the store keeps."""
        step_fields = _step_fields(trajectories.timesteps)
        for name, array in self.steps.items():
            step_fields[name][:] = array[slots]
        trajectories.act_outputs.action[:] = self.action[slots]
        trajectories.initial_priorities[:] = self.initial_priorities[slots]
        trajectories.weights_version[:], trajectories.actor_id[:] = self.version[slots], self.actor[slots]
        for array, value in zip(self.core or (), trajectories.agent_state.core or (), strict=True):
            value[:] = array[slots]
        first_frame = np.asarray(slots)[:, None] * self._frames_per_slot
        if self._num_previous:
            trajectories.agent_state.frames[:] = self._frames.read(first_frame + np.arange(self._num_previous))
        steps = np.arange(self._num_previous, self._frames_per_slot)
        trajectories.timesteps.observation[:] = self._frames.read(first_frame + steps)

    def join_chain(self, array: Any, chain: Any, last: bool = False) -> Any:
        """A field [slots, T+1 or T] along chains of slots [N, K]: [N, K * T], and one step more if `last`."""
        joined = array[chain, : self.length].reshape(len(chain), -1)  # [N, K * T]
        return np.concatenate([joined, array[chain[:, -1], self.length :][:, :1]], axis=1) if last else joined

    def windows(self, chain: Any, start: Any, starts_episode: Any, burn_in: int, steps: int) -> Trajectory:
        """`steps` steps from step `start` [B] on, of the trajectories in the slots `chain` [B, K]; time first.

        Where `starts_episode`, the window begins with its episode: it starts with `burn_in` zeros and a state of zeros.
        """
        batch, depth = chain.shape
        window = np.arange(steps)[:, None]
        position = start + window - burn_in * starts_episode  # [L, B], from step 0 of the first trajectory
        padding = starts_episode & (window < burn_in)  # [L, B]
        link = np.clip(position // self.length, 0, depth - 1)
        step = np.clip(position - link * self.length, 0, self.length)
        slot = chain[np.arange(batch), link]  # [L, B]
        fields = {name: array[slot, step] for name, array in self.steps.items()}
        fields["is_first"] &= ~padding
        observation = self._frames.read(slot * self._frames_per_slot + self._num_previous + step)  # [L, B, ...]
        if padding.any():
            observation[padding] = 0
        extras = {name: fields.pop(name) for name in list(fields) if name not in STEP_FIELDS}
        unused = np.zeros(0)
        return Trajectory(
            agent_state=NetworkState(
                self._frames_before(chain[:, 0], start, starts_episode), self._core_of(chain[:, 0], starts_episode)
            ),
            timesteps=TimeStep(
                observation=observation, episode_return=unused, episode_frames=unused, extras=extras, **fields
            ),
            act_outputs=ActOutput(self.action[slot, step], unused, unused),
            weights_version=self.version[chain[:, 0]],
            actor_id=self.actor[chain[:, 0]],
        )

    def _core_of(self, slots: Any, starts_episode: Any) -> Any:
        if self.core is None:
            return None
        return tuple(part[slots] * ~starts_episode[:, None] for part in self.core)

    def _frames_before(self, slots: Any, start: Any, starts_episode: Any) -> Any:
        """The frames before step `start`, zero where they are of an earlier episode: [B, k-1, H, W, C]."""
        if not self._num_previous:
            return None
        first_frame = slots[:, None] * self._frames_per_slot + start[:, None]
        frames = self._frames.read(first_frame + np.arange(self._num_previous))
        other_episode = starts_episode.copy()  # whether the frame of this age is of an earlier episode
        for age in range(1, self._num_previous + 1):
            if age > 1:
                newer = start - age + 1  # frames before step 0 were zeroed by the actor where necessary
                other_episode |= (newer >= 0) & self.steps["is_first"][slots, np.maximum(newer, 0)]
            if other_episode.any():
                frames[other_episode, self._num_previous - age] = 0
        return frames


def _step_fields(timesteps: TimeStep) -> dict[str, Any]:
    """The fields of a step that are stored, except its observation."""
    return {name: getattr(timesteps, name) for name in STEP_FIELDS} | timesteps.extras


def _zeros(slots: int, spec: Any) -> Any:
    return np.zeros((slots, *spec.shape), spec.dtype)


def check_fits(spec: Trajectory, capacity: int, compress: bool, copies: int) -> None:
    """ValueError with the figures if `copies` replays of `capacity` steps do not fit into this machine's memory."""
    length = spec.timesteps.observation.shape[0] - 1
    store_bytes = TrajectoryStore(spec, 1, compress=False).bytes_of_slots(1) / length
    bytes_per_step = store_bytes * (ASSUMED_COMPRESSION if compress else 1.0) + SUM_TREE_BYTES_PER_STEP
    available = available_memory()
    needed = bytes_per_step * capacity * copies
    if needed > available:
        raise ValueError(
            f"--replay_capacity={capacity}: {copies} x {capacity:,} steps of {bytes_per_step:,.0f} bytes need "
            f"{needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free; "
            f"at most {int(available / bytes_per_step / copies):,} fit"
        )
