"""Records as flat bytes: a nest of arrays <-> one numpy record, laid out alike on both sides.

The actor writes its steps straight into the record that will travel, and the learner reads them where they arrived: there is
nothing to encode or to parse. Also the frame around a message: a header in JSON, a checksum, the payload. Not here: sockets.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from typing import Any

import numpy as np
import tree

from mlma.types import ActOutput, Agent, ArraySpec, EnvSpec, TimeStep, Trajectory

Buffer = bytes | memoryview
MAGIC = b"mlma1"
PART = 3_500_000  # bytes of a message; the limit of the runtime is 4 MiB, header included
_PREFIX = struct.Struct("<5sIII")  # magic, length of the header, length of the payload, crc32 of both


class Layout:
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


def spec_of_state(agent_state: Any) -> Any:
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
        first=of((), "bool"),
        last_action=of((), "int32"),
        episode_return=of((), "float32"),
        episode_frames=of((), "int32"),
        more={name: of(*spec) for name, spec in env.more.items()},
    )


def trajectory_spec(env: EnvSpec, agent_state: Any, unroll_length: int, errors: bool = False) -> Trajectory:
    """The spec of a Trajectory of this level, agent and length; with errors if it goes to a replay."""
    steps = unroll_length + 1
    action, logits = ArraySpec((steps,), "int32"), ArraySpec((steps, env.num_actions), "float32")
    return Trajectory(
        agent_state=spec_of_state(agent_state),
        timesteps=timestep_spec(env, steps),
        act_outputs=ActOutput(action, logits, value=ArraySpec((steps,), "float32")),
        weights_version=ArraySpec((), "int64"),
        task=ArraySpec((), "int32"),
        place=ArraySpec((), "int32"),
        stream=ArraySpec((), "int64"),
        number=ArraySpec((), "int64"),
        errors=ArraySpec((unroll_length,), "float32") if errors else None,
    )


def layout_of(env: EnvSpec, agent: Agent, unroll_length: int) -> Layout:
    """How this agent's trajectories lie in memory."""
    return Layout(trajectory_spec(env, agent.initial_state(1), unroll_length, errors=agent.windows is not None))


def pack(header: dict[str, Any], payload: Buffer = b"") -> bytes:
    head = json.dumps(header).encode()
    return b"".join((_PREFIX.pack(MAGIC, len(head), len(payload), zlib.crc32(payload, zlib.crc32(head))), head, payload))


def messages(header: dict[str, Any], payload: Buffer, part_size: int = PART) -> list[bytes]:
    """One message, or several where the payload is longer than `part_size`."""
    pieces = [payload[i : i + part_size] for i in range(0, len(payload), part_size)]
    return [pack(header | {"part": i, "parts": len(pieces)}, piece) for i, piece in enumerate(pieces)]


def unpack(message: bytes) -> tuple[dict[str, Any], memoryview]:
    """The inverse of `pack`, without copying the payload; ValueError for anything that `pack` did not make."""
    if len(message) < _PREFIX.size:
        raise ValueError(f"message of {len(message)} bytes is too short")
    magic, head_size, payload_size, crc = _PREFIX.unpack_from(message)
    if magic != MAGIC or len(message) != _PREFIX.size + head_size + payload_size:
        raise ValueError("message is not of this protocol or of the wrong length")
    head = message[_PREFIX.size : _PREFIX.size + head_size]
    payload = memoryview(message)[_PREFIX.size + head_size :]
    if zlib.crc32(payload, zlib.crc32(head)) != crc:
        raise ValueError("message fails its checksum")
    try:
        header = json.loads(head)
    except RecursionError:
        raise ValueError("message header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("message header is no object")
    return header, payload
