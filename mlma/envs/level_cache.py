"""DeepMind Lab's compiled maps in a folder that all processes of a host share, and which does not outgrow its limit.

Loading a map takes half a second; compiling it takes up to 26. The modification time of a file is when it was used
last. Not here: which seeds, and thus maps, an episode may have (mlma/envs/suites/dmlab.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlma.utils.atomic_file import atomic_write

logger = logging.getLogger(__name__)

LOCK = ".lock"  # held by the process that removes maps
KEPT_SHARE = 0.9  # of the limit, after maps were removed: not each new map removes one


class StoredMap(NamedTuple):
    """A file of the cache."""

    used: float
    size: int
    path: Path


class LevelCache:
    """Called by the Lab. The maps of an unwritable or full disk are compiled again."""

    def __init__(self, folder: Path, max_bytes: float) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self.hits, self.misses = 0, 0

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Copies the map to `pk3_path`; False if it is not in the cache."""
        path = self._path(key)
        try:
            shutil.copyfile(path, pk3_path)
        except OSError:
            self.misses += 1
            return False
        self.hits += 1
        with contextlib.suppress(OSError):  # it was removed in the meantime, or belongs to somebody else
            os.utime(path)
        return True

    def write(self, key: str, pk3_path: str) -> None:
        """Adds the map atomically: other processes read the cache and may write the same map at the same time."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file, open(pk3_path, "rb") as compiled:
                shutil.copyfileobj(compiled, file)
            self._remove_oldest()
        except OSError as error:  # such as a full disk: the map is compiled again next time
            logger.warning("could not add a map to the level cache %s: %s", self._folder, error)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / name

    def _remove_oldest(self) -> None:
        """Brings the folder within its limit, unless another process is doing that."""
        maps = list(self._maps())
        if sum(each.size for each in maps) <= self._max_bytes:
            return
        with open(self._folder / LOCK, "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            maps = sorted(self._maps())
            excess = sum(each.size for each in maps) - KEPT_SHARE * self._max_bytes
            for each in maps[:-1]:  # the newest stays, even if it is larger than the limit
                if excess <= 0:
                    break
                each.path.unlink(missing_ok=True)
                excess -= each.size

    def _maps(self) -> Iterator[StoredMap]:
        """All files, with what killed processes left of their writing."""
        for folder in self._folder.glob("??"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as files:
                for file in files:
                    with contextlib.suppress(FileNotFoundError):
                        status = file.stat(follow_symlinks=False)
                        yield StoredMap(status.st_mtime, status.st_size, Path(file.path))
