"""Records as flat bytes: a nest of arrays <-> one numpy record, laid out alike on both sides.

The actor writes its steps straight into the record that will travel, and the learner reads them where they arrived: there is
nothing to encode or to parse. Also the frame around a message: a header in JSON, a checksum, the payload. Not here: sockets.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import tree

from mlma.core.types import WORD_BUCKETS, ActOutput, Agent, ArraySpec, EnvSpec, TimeStep, Trajectory

Buffer = bytes | memoryview


class RecordLayout:
    """How one nest of arrays lies in memory."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        leaves = [(f"f{i}", leaf.dtype, leaf.shape) for i, leaf in enumerate(_leaves(spec))]
        self.dtype = np.dtype(leaves, align=True)
        self.signature = hashlib.sha256(repr(leaves).encode()).hexdigest()[:16]

    def empty(self, count: int) -> Any:
        """`count` records of zeros: a numpy array of `self.dtype`."""
        return np.zeros(count, self.dtype)

    def view(self, records: Any) -> Any:
        """The nest of arrays [count, ...] that these records are; writing to it writes the records."""
        return _unflatten(self.spec, [records[name] for name in self.dtype.names or ()])

    def from_bytes(self, data: Buffer) -> Any:
        """Records from `tobytes`; ValueError if the length is not that of whole records."""
        if len(data) % self.dtype.itemsize:
            raise ValueError(f"{len(data)} bytes are no whole number of records of {self.dtype.itemsize}")
        return np.frombuffer(data, self.dtype)


def _leaves(spec: Any) -> list[ArraySpec]:
    """Leaves in order; an ArraySpec is a leaf although it is a tuple, and None is nothing."""
    if isinstance(spec, ArraySpec):
        return [spec]
    parts = spec.values() if isinstance(spec, dict) else spec or ()
    return [leaf for part in parts for leaf in _leaves(part)]


def _unflatten(spec: Any, arrays: list[Any]) -> Any:
    if isinstance(spec, ArraySpec):
        return arrays.pop(0)
    if spec is None:
        return None
    if isinstance(spec, dict):
        return {name: _unflatten(part, arrays) for name, part in spec.items()}
    parts = [_unflatten(part, arrays) for part in spec]
    return type(spec)(*parts) if hasattr(spec, "_fields") else type(spec)(parts)


def agent_state_spec(agent_state: Any) -> Any:
    """ArraySpecs of an agent state [B, ...], without its batch dimension."""
    return tree.map_structure(lambda x: None if x is None else ArraySpec(tuple(x.shape[1:]), x.dtype.name), agent_state)


def timestep_spec(env: EnvSpec, *leading: int) -> TimeStep:
    """The spec of TimeSteps [*leading, ...] of this level."""

    def of(shape: tuple[int, ...], dtype: str) -> ArraySpec:
        return ArraySpec((*leading, *shape), dtype)

    return TimeStep(
        observation=of(*env.observation),
        reward=of((), "float32"),
        discount=of((), "float32"),
        is_first=of((), "bool"),
        last_action=of((), "int32"),
        episode_return=of((), "float32"),
        episode_frames=of((), "int32"),
        extras={name: of(*spec) for name, spec in env.extras.items()},
    )


def trajectory_spec(env: EnvSpec, agent_state: Any, unroll_length: int, errors: bool = False) -> Trajectory:
    """The spec of a Trajectory of this level, agent and length; with errors if it goes to a replay."""
    steps = unroll_length + 1
    action, logits = ArraySpec((steps,), "int32"), ArraySpec((steps, env.num_actions), "float32")
    return Trajectory(
        agent_state=agent_state_spec(agent_state),
        timesteps=timestep_spec(env, steps),
        act_outputs=ActOutput(action, logits, value=ArraySpec((steps,), "float32")),
        weights_version=ArraySpec((), "int64"),
        actor_id=ArraySpec((), "int32"),
        env_index=ArraySpec((), "int32"),
        env_stream_id=ArraySpec((), "int64"),
        sequence_number=ArraySpec((), "int64"),
        initial_priorities=ArraySpec((unroll_length,), "float32") if errors else None,
    )


def trajectory_layout(env: EnvSpec, agent: Agent, unroll_length: int) -> RecordLayout:
    """How this agent's trajectories lie in memory."""
    return RecordLayout(
        trajectory_spec(env, agent.initial_state(1), unroll_length, errors=agent.replay_windows is not None)
    )


def check_extras(more: dict[str, Any], spec: EnvSpec) -> None:
    """Numbers that a network looks something up with; ValueError if there is nothing."""
    if "level" in more and not (more["level"].min() >= 0 and more["level"].max() < len(spec.actions_by_level)):
        raise ValueError("level out of range")
    if "words" in more and not (more["words"].min() >= 0 and more["words"].max() <= WORD_BUCKETS):
        raise ValueError("word out of range")
