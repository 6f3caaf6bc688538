"""Joins the parts of messages whose payload is longer than one message may be (mlma/transport/messages.py).

Parts wait in memory until their message is complete, so they are bounded: in number and bytes per actor by the longest
payload that the layout allows, in total, and in age.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from mlma.core.record_layout import Buffer
from mlma.core.refusal import RefusedError
from mlma.transport.messages import MAX_HEADER_BYTES, MAX_MESSAGE_BYTES

MIN_UNFINISHED = 8  # unfinished messages for which there is room at least
MAX_AGE_SECONDS = 120.0  # since its last part, after which an unfinished message is dropped


class Unfinished(NamedTuple):
    """The parts of one message so far."""

    parts: int
    payloads: tuple[Buffer, ...]
    payload_bytes: int
    held_bytes: int  # of the messages that the payloads are views of
    updated: float


class MessageParts:
    """One thread. An actor sends the parts of a message one after the other, and one message at a time."""

    def __init__(self, record_bytes: int, num_actors: int) -> None:
        """A message that has parts is one record of this size; `num_actors` send at the same time."""
        self._record_bytes = record_bytes
        self.max_parts = -(-record_bytes // MAX_MESSAGE_BYTES)
        largest = record_bytes + self.max_parts * MAX_HEADER_BYTES
        self._max_bytes = max(MIN_UNFINISHED, 2 * num_actors) * largest
        self._unfinished: dict[int, Unfinished] = {}  # by actor, the one that was updated last at the end

    @property
    def held_bytes(self) -> int:
        """Memory of the unfinished messages."""
        return sum(unfinished.held_bytes for unfinished in self._unfinished.values())

    def join(self, actor: int, part: int, parts: int, payload: Buffer, message_bytes: int) -> Buffer:
        """The whole payload once its last part has arrived, else nothing. RefusedError for a part out of place."""
        now = time.monotonic()
        before = self._unfinished.pop(actor, None)
        if part == 0 or before is None:
            before = Unfinished(parts, (), 0, 0, now)
        if part != len(before.payloads) or parts != before.parts:  # a part is missing: the actor ended in between
            raise RefusedError("parts", f"part {part} of {parts} came after {len(before.payloads)} of {before.parts}")
        size = before.payload_bytes + len(payload)
        if size > self._record_bytes or not payload:
            raise RefusedError("parts", f"{parts} parts with {size:,} bytes: must be {self._record_bytes:,}")
        payloads = (*before.payloads, payload)
        if len(payloads) == parts:
            return b"".join(payloads)
        self._unfinished[actor] = Unfinished(parts, payloads, size, before.held_bytes + message_bytes, now)
        self._drop_oldest(now)
        return b""

    def _drop_oldest(self, now: float) -> None:
        """Drops what is too old, and then the oldest until the rest fits."""
        while self._unfinished:
            actor, oldest = next(iter(self._unfinished.items()))
            if now - oldest.updated <= MAX_AGE_SECONDS and self.held_bytes <= self._max_bytes:
                break
            del self._unfinished[actor]
