"""Messages as a bug or a bad actor might send them: valid ones, changed, with a checksum that is right again."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np

from mlma.core.record_layout import RecordLayout
from mlma.transport.messages import MAGIC

EXTREMES: tuple[Any, ...] = (
    -1, 0, 2**31, 2**63, -(2**63), 10**400, 0.5, 1e308, float("nan"), float("inf"), -float("inf"), True, None, "", "1",
    "\x1b[31m\n" * 50, [], [[]] * 50, {}, {"a": {"b": 1}},
)  # fmt: skip
FLOATS = (np.nan, np.inf, -np.inf, -1.0, 1e30, 2.0)
INTEGERS = (-1, 2**31 - 1, -(2**31), 1_000_000)


def frame(head: bytes, payload: bytes) -> bytes:
    """A message with any header, and the right checksum."""
    crc = zlib.crc32(payload, zlib.crc32(head))
    return struct.pack("<5sIII", MAGIC, len(head), len(payload), crc) + head + payload


def flip_bits(data: bytes, rng: np.random.Generator, count: int) -> bytes:
    """The data with a few bits flipped."""
    changed = bytearray(data)
    for position in rng.integers(8 * len(data), size=count):
        changed[position // 8] ^= 1 << position % 8
    return bytes(changed)


class Mutator:
    """Endless variations of one valid message."""

    def __init__(self, header: dict[str, Any], payload: bytes, layout: RecordLayout | None, seed: int) -> None:
        """`payload` consists of records of `layout`, if there is one."""
        self._header, self._payload, self._layout = header, payload, layout
        self._rng = np.random.default_rng(seed)

    def message(self) -> bytes:
        """The next one. Few are still valid."""
        header, payload, rng = dict(self._header), self._payload, self._rng
        kind = int(rng.integers(7))
        if kind == 0 and payload:
            return frame(self._encode(header), flip_bits(payload, rng, int(rng.integers(1, 4))))
        if kind == 1:
            return frame(flip_bits(self._encode(header), rng, int(rng.integers(1, 4))), payload)
        if kind == 2:  # a number in a record
            return frame(self._encode(header), self._with_extreme_field())
        if kind == 3:  # numbers of parts
            header["part"], header["parts"] = int(rng.integers(-2, 9)), int(rng.integers(-2, 9))
            return frame(self._encode(header), payload)
        if kind == 4:
            return frame(self._encode(header), payload[: int(rng.integers(len(payload) + 1))])
        if kind == 5:
            whole = frame(self._encode(header), payload)
            return whole[: int(rng.integers(len(whole)))] if rng.random() < 0.5 else flip_bits(whole, rng, 1)
        name = list(header)[int(rng.integers(len(header)))]
        header[name] = self._extreme()
        if name == "phases" and rng.random() < 0.7:
            phases = dict(self._header["phases"])
            phases[list(phases)[int(rng.integers(len(phases)))]] = self._extreme()
            header[name] = phases
        return frame(self._encode(header), payload)

    def _extreme(self) -> Any:
        return EXTREMES[int(self._rng.integers(len(EXTREMES)))]

    def _encode(self, header: dict[str, Any]) -> bytes:
        return json.dumps(header).encode()

    def _with_extreme_field(self) -> bytes:
        if self._layout is None:
            return self._payload
        records = self._layout.from_bytes(self._payload).copy()
        names = self._layout.dtype.names or ()
        field = records[names[int(self._rng.integers(len(names)))]]
        values = FLOATS if field.dtype.kind == "f" else (2, 7, 255) if field.dtype.itemsize == 1 else INTEGERS
        raw = field.view(np.uint8) if field.dtype.kind == "b" else field
        raw.reshape(len(raw), -1)[:, int(self._rng.integers(max(1, raw[0].size)))] = values[
            int(self._rng.integers(len(values)))
        ]
        return bytes(records.tobytes())
