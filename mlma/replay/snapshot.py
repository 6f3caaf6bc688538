"""Snapshots of a replay on disk: one file per learner, written by a thread while training continues.

A file consists of a JSON header and blocks of a few trajectories, each with its length and checksum, so that writing
needs the memory of one block only. It is renamed into place when complete. Trajectories that are overwritten meanwhile
are left out. Not here: checkpoints of the weights (mlma/learning/checkpoint.py).
"""

from __future__ import annotations

import json
import logging
import os
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
from mlma.utils.own_files import make_own_folder
from mlma.utils.side_task import SideTask, describe

logger = logging.getLogger(__name__)

BLOCK_BYTES = 2**24  # bytes of trajectories in a block
MAX_HEADER_BYTES = 2**20
_BLOCK_HEADER = struct.Struct("<QQI")  # bytes of trajectories, bytes of priorities, crc32 of both


class ReplaySnapshot:
    """Saves and restores one learner's replay; does nothing without a path."""

    def __init__(self, replay: PrioritizedReplay | None, path: Path | None) -> None:
        self._replay, self._path = replay, path
        self._thread: threading.Thread | None = None
        self._start_task = SideTask("saving the replay")

    def save(self) -> None:
        """Starts to write a snapshot, unless one is still being written."""
        if self._path is None or (self._thread and self._thread.is_alive()):
            return
        thread = threading.Thread(target=self._save, name="save-replay", daemon=True)
        self._start_task(thread.start)
        self._thread = thread if thread.ident else None  # without memory no thread starts

    def wait(self) -> None:
        """Waits until a snapshot that is being written is complete."""
        if self._thread:
            self._thread.join()

    def _save(self) -> None:
        assert self._path is not None and self._replay is not None
        began = time.monotonic()
        try:
            steps = write_snapshot(self._replay, self._path)
        except Exception as error:  # also MemoryError
            reason = describe(error)
            logger.warning("could not save the replay: %s; training continues, the previous snapshot is kept", reason)
            return
        logger.info("saved %s with %s steps in %.1f s", self._path, f"{steps:,}", time.monotonic() - began)

    def restore(self) -> None:
        """Restores the snapshot if there is one. A file that does not fit is left alone, and the replay fills again."""
        if self._path is None or self._replay is None or not self._path.exists():
            return
        try:
            steps = read_snapshot(self._replay, self._path)
        except Exception as error:  # damage raises anything
            logger.warning("%s: not restored, the replay fills again: %s", self._path, describe(error))
            return
        logger.info("restored %s steps from %s", f"{steps:,}", self._path)


def write_snapshot(replay: PrioritizedReplay, path: Path) -> int:
    """Writes a snapshot; returns the number of steps written."""
    make_own_folder(path.parent)
    serials = replay.stored_serials()
    block_size = max(1, BLOCK_BYTES // replay.layout.dtype.itemsize)  # trajectories
    steps = 0
    with atomic_write(path) as file:
        file.write(json.dumps({"layout": replay.layout.signature}).encode() + b"\n")
        for i in range(0, len(serials), block_size):
            records, leaves = replay.read(serials[i : i + block_size])
            if len(records):
                _write_block(file, records.tobytes(), leaves.tobytes())
                steps += leaves.size
    return steps


def _write_block(file: BinaryIO, records: bytes, leaves: bytes) -> None:
    file.write(_BLOCK_HEADER.pack(len(records), len(leaves), zlib.crc32(leaves, zlib.crc32(records))))
    file.write(records)
    file.write(leaves)


def read_snapshot(replay: PrioritizedReplay, path: Path) -> int:
    """Adds the trajectories of a snapshot, with their priorities, to the replay; returns the number of steps.

    ValueError if the file has another layout, or is damaged, in which case the blocks before the damage have been
    added.
    """
    steps, restored = 0, []
    with path.open("rb") as file:
        header = json.loads(file.readline(MAX_HEADER_BYTES) or b"{}")
        layout = header.get("layout") if isinstance(header, dict) else None
        if layout != replay.layout.signature:
            raise ValueError(
                f"its record layout is {layout}, this run has {replay.layout.signature}: "
                "another level, network or --unroll_length"
            )
        for records, leaves in _read_blocks(replay, file):
            restored.append((replay.insert_restored(records), leaves))
            steps += leaves.size
    for serials, leaves in restored:  # last, since a window may reach into trajectories of a later block
        replay.restore_leaves(serials, leaves)
    return steps


def _read_blocks(replay: PrioritizedReplay, file: BinaryIO) -> Iterator[tuple[Any, Any]]:
    length, size = replay.store.length, os.fstat(file.fileno()).st_size
    while header := file.read(_BLOCK_HEADER.size):
        if len(header) < _BLOCK_HEADER.size:
            raise ValueError("the file ends within the header of a block")
        records_size, leaves_size, checksum = _BLOCK_HEADER.unpack(header)
        if records_size + leaves_size > size:
            raise ValueError("a block is larger than the file")
        records, leaves = file.read(records_size), file.read(leaves_size)
        if zlib.crc32(leaves, zlib.crc32(records)) != checksum:
            raise ValueError("a block has a wrong checksum")
        yield replay.layout.from_bytes(records), np.frombuffer(leaves).reshape(-1, length)
