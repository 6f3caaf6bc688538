"""A replay on disk: one shard per learner, beside the checkpoints, written by a thread while training goes on.

A file is a header in JSON and blocks of a few trajectories, each with its length and checksum: writing takes the memory of one
block. It is written beside and renamed when it is whole. Trajectories that are overwritten meanwhile are left out. Not here:
checkpoints of the network (mlma/learning/checkpoint.py).
"""

from __future__ import annotations

import json
import logging
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlma.replay.prioritized_replay import PrioritizedReplay
from mlma.utils.atomic_file import atomic_write

logger = logging.getLogger(__name__)

BLOCK_BYTES = 2**24  # bytes of trajectories in a block
_HEAD = struct.Struct("<QQI")  # bytes of trajectories, bytes of priorities, crc32 of both


class ReplaySnapshot:
    """What becomes of one learner's replay when the run is saved and resumed: nothing without a path."""

    def __init__(self, replay: PrioritizedReplay | None, path: Path | None) -> None:
        self._replay, self._path = replay, path
        self._thread: threading.Thread | None = None

    def save(self) -> None:
        """Begins to write, unless it still does."""
        if self._path is None or (self._thread and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._save, name="save-replay", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until what was begun is written."""
        if self._thread:
            self._thread.join()

    def _save(self) -> None:
        assert self._path is not None and self._replay is not None
        begun = time.monotonic()
        try:
            steps = write_snapshot(self._replay, self._path)
        except OSError as problem:
            logger.warning("could not save the replay: %s; training continues, the previous one stays", problem)
            return
        logger.info("saved %s with %s steps in %.1f s", self._path, f"{steps:,}", time.monotonic() - begun)

    def restore(self) -> None:
        """Puts back what is there; a file that does not fit is left alone, and the replay fills anew."""
        if self._path is None or self._replay is None or not self._path.exists():
            return
        try:
            steps = read_snapshot(self._replay, self._path)
        except (OSError, ValueError) as problem:
            logger.warning("%s: not restored, the replay fills again: %s", self._path, problem)
            return
        logger.info("restored %s steps from %s", f"{steps:,}", self._path)


def write_snapshot(replay: PrioritizedReplay, path: Path) -> int:
    """Steps written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    serials = replay.held()
    each = max(1, BLOCK_BYTES // replay.layout.dtype.itemsize)
    steps = 0
    with atomic_write(path) as file:
        file.write(json.dumps({"layout": replay.layout.signature}).encode() + b"\n")
        for i in range(0, len(serials), each):
            records, leaves = replay.read(serials[i : i + each])
            if len(records):
                _write_block(file, records.tobytes(), leaves.tobytes())
                steps += leaves.size
    return steps


def _write_block(file: BinaryIO, records: bytes, leaves: bytes) -> None:
    file.write(_HEAD.pack(len(records), len(leaves), zlib.crc32(leaves, zlib.crc32(records))))
    file.write(records)
    file.write(leaves)


def read_snapshot(replay: PrioritizedReplay, path: Path) -> int:
    """Steps restored, with their priorities. ValueError if the file is of another run, or broken from some point on."""
    steps, known = 0, []
    with path.open("rb") as file:
        head = json.loads(file.readline() or b"{}")
        if head.get("layout") != replay.layout.signature:
            raise ValueError("it holds trajectories of another level, network or length")
        for records, leaves in _read_blocks(replay, file):
            known.append((replay.restored(records), leaves))
            steps += leaves.size
    for serials, leaves in known:  # a window can be drawn once what it reaches into is there: perhaps in a later block
        replay.set_leaves(serials, leaves)
    return steps


def _read_blocks(replay: PrioritizedReplay, file: BinaryIO) -> Iterator[tuple[Any, Any]]:
    length = replay.store.length
    while head := file.read(_HEAD.size):
        if len(head) < _HEAD.size:
            raise ValueError("it ends within a block")
        size, more, checksum = _HEAD.unpack(head)
        records, leaves = file.read(size), file.read(more)
        if zlib.crc32(leaves, zlib.crc32(records)) != checksum:
            raise ValueError("a block fails its checksum")
        yield replay.layout.from_bytes(records), np.frombuffer(leaves).reshape(-1, length)
