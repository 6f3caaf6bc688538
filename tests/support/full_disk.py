"""Small file systems in memory that tests fill to the last byte. Mounting needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of this size at `folder`. Where it cannot be mounted, the test is skipped; never in CI."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode and os.environ.get("CI") != "true":
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    assert mounted.returncode == 0, mounted.stderr
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def keep_full(disk: Path, seconds: float, check: Callable[[], None] = lambda: None) -> None:
    """Leaves no byte free for this long, also when something is deleted; then there is room again."""
    filler = disk / "filler"
    end = time.monotonic() + seconds
    with filler.open("wb", buffering=0) as file:
        while time.monotonic() < end:
            for block in (bytes(2**20), bytes(4096)):
                with contextlib.suppress(OSError):
                    while file.write(block) == len(block):
                        pass
            assert os.statvfs(disk).f_bavail == 0
            check()
            time.sleep(0.1)
    filler.unlink()
