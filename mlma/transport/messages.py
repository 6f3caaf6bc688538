"""Message framing: a JSON header, a checksum and a payload in one byte string.

Not here: sockets (mlma/transport/server.py, client.py), the payload of trajectories (mlma/core/record_layout.py).
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

from mlma.core.record_layout import Buffer

MAGIC = b"mlma1"
MAX_MESSAGE_BYTES = 3_500_000  # of payload; TensorFlow refuses messages above 4 MiB, header included
MAX_HEADER_BYTES = 2**18  # a header with the events of a profile is the longest: MAX_EVENTS of 60 bytes
_PREFIX = struct.Struct("<5sIII")  # magic, length of the header, length of the payload, crc32 of both


def _refuse_constant(name: str) -> None:
    raise ValueError(f"message header contains {name}, which is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # NaN and infinities are Python's addition to JSON


def pack(header: dict[str, Any], payload: Buffer = b"") -> bytes:
    """One message."""
    head = json.dumps(header).encode()
    crc = zlib.crc32(payload, zlib.crc32(head))
    return b"".join((_PREFIX.pack(MAGIC, len(head), len(payload), crc), head, payload))


def split_message(header: dict[str, Any], payload: Buffer, part_size: int = MAX_MESSAGE_BYTES) -> list[bytes]:
    """One message, or several numbered parts if the payload is longer than `part_size`."""
    pieces = [payload[i : i + part_size] for i in range(0, len(payload), part_size)]
    return [pack(header | {"part": i, "parts": len(pieces)}, piece) for i, piece in enumerate(pieces)]


def unpack(message: bytes) -> tuple[dict[str, Any], memoryview]:
    """The inverse of `pack`, without copying the payload; ValueError for anything that `pack` did not produce."""
    if len(message) < _PREFIX.size:
        raise ValueError(f"message of {len(message)} bytes is too short")
    magic, head_size, payload_size, crc = _PREFIX.unpack_from(message)
    if head_size > MAX_HEADER_BYTES:
        raise ValueError(f"message header of {head_size:,} bytes is longer than {MAX_HEADER_BYTES:,}")
    if magic != MAGIC or len(message) != _PREFIX.size + head_size + payload_size:
        raise ValueError("message has another protocol or the wrong length")
    head = message[_PREFIX.size : _PREFIX.size + head_size]
    payload = memoryview(message)[_PREFIX.size + head_size :]
    if zlib.crc32(payload, zlib.crc32(head)) != crc:
        raise ValueError("message fails its checksum")
    try:
        header = _DECODER.decode(head.decode())
    except RecursionError:
        raise ValueError("message header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("message header is not an object")
    return header, payload
