"""Memory layout of records: a nest of arrays <-> one numpy record, equal in actors and learner.

An actor writes its steps directly into the record that it sends, and the learner reads them from the bytes that it
received, so nothing is encoded or parsed: docs/decisions/0003-records-as-bytes.md. Not here: messages
(mlma/transport/messages.py).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import tree

from mlma.core.actions import action_spec, policy_size
from mlma.core.types import ActOutput, Agent, ArraySpec, EnvSpec, TimeStep, Trajectory

Buffer = bytes | memoryview


class RecordLayout:
    """The memory layout of one nest of arrays."""

    def __init__(self, spec: Any) -> None:
        """`spec` is a nest of ArraySpecs. Layouts with equal `signature` are equal."""
        self.spec = spec
        leaves = [(f"f{i}", leaf.dtype, leaf.shape) for i, leaf in enumerate(_leaves(spec))]
        self.dtype = np.dtype(leaves, align=True)
        self.signature = hashlib.sha256(repr(leaves).encode()).hexdigest()[:16]

    def empty(self, count: int) -> Any:
        """`count` records of zeros: a numpy array with dtype `self.dtype`."""
        return np.zeros(count, self.dtype)

    def view(self, records: Any) -> Any:
        """The nest of arrays [count, ...] that share memory with these records."""
        return _unflatten(self.spec, [records[name] for name in self.dtype.names or ()])

    def from_bytes(self, data: Buffer) -> Any:
        """The records that `tobytes` gave; ValueError if the length is not a multiple of the record size."""
        if len(data) % self.dtype.itemsize:
            raise ValueError(f"{len(data)} bytes: must be a multiple of the record size, {self.dtype.itemsize} bytes")
        return np.frombuffer(data, self.dtype)


def _leaves(spec: Any) -> list[ArraySpec]:
    """The leaves in order; an ArraySpec is a leaf although it is a tuple, and None has no leaves."""
    if isinstance(spec, ArraySpec):
        return [spec]
    children = spec.values() if isinstance(spec, dict) else spec or ()
    return [leaf for child in children for leaf in _leaves(child)]


def _unflatten(spec: Any, arrays: list[Any]) -> Any:
    if isinstance(spec, ArraySpec):
        return arrays.pop(0)
    if spec is None:
        return None
    if isinstance(spec, dict):
        return {name: _unflatten(child, arrays) for name, child in spec.items()}
    children = [_unflatten(child, arrays) for child in spec]
    return type(spec)(*children) if hasattr(spec, "_fields") else type(spec)(children)


def agent_state_spec(agent_state: Any) -> Any:
    """ArraySpecs of an agent state [B, ...], without its batch dimension."""
    return tree.map_structure(lambda x: None if x is None else ArraySpec(tuple(x.shape[1:]), x.dtype.name), agent_state)


def per_step(spec: ArraySpec, *leading: int) -> ArraySpec:
    """The spec of arrays [*leading, ...]."""
    return ArraySpec((*leading, *spec.shape), spec.dtype)


def timestep_spec(env: EnvSpec, *leading: int) -> TimeStep:
    """The spec of TimeSteps [*leading, ...] of a level."""

    def field(shape: tuple[int, ...], dtype: str) -> ArraySpec:
        return ArraySpec((*leading, *shape), dtype)

    return TimeStep(
        observation=field(*env.observation),
        reward=field((), "float32"),
        discount=field((), "float32"),
        is_first=field((), "bool"),
        last_action=field(*action_spec(env)),
        episode_return=field((), "float32"),
        episode_frames=field((), "int32"),
        extras={name: field(*spec) for name, spec in env.extras.items()},
    )


def trajectory_spec(env: EnvSpec, agent_state: Any, unroll_length: int, with_priorities: bool = False) -> Trajectory:
    """The spec of a Trajectory [T+1]; `with_priorities` if it is for a replay."""
    steps = unroll_length + 1
    action, logits = per_step(action_spec(env), steps), ArraySpec((steps, policy_size(env)), "float32")
    return Trajectory(
        agent_state=agent_state_spec(agent_state),
        timesteps=timestep_spec(env, steps),
        act_outputs=ActOutput(action, logits, value=ArraySpec((steps,), "float32")),
        weights_version=ArraySpec((), "int64"),
        actor_id=ArraySpec((), "int32"),
        env_index=ArraySpec((), "int32"),
        env_stream_id=ArraySpec((), "int64"),
        sequence_number=ArraySpec((), "int64"),
        initial_priorities=ArraySpec((unroll_length,), "float32") if with_priorities else None,
    )


def trajectory_layout(env: EnvSpec, agent: Agent, unroll_length: int) -> RecordLayout:
    """The layout of this agent's trajectories."""
    with_priorities = agent.replay_windows is not None
    return RecordLayout(trajectory_spec(env, agent.initial_state(1), unroll_length, with_priorities))
