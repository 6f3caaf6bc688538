"""Full disks of a host, by the folder that a run uses on them.

Needs only Python 3.8 or later and its standard library."""

from __future__ import annotations

import os
from pathlib import Path

FULL_BYTES = 1e7  # with less space, logs, records and checkpoints are lost


def full_disks(logdir: str) -> list[str]:
    """A line for the home directory, and one for the logdir if that is not empty, whose disk is full."""
    lines = []
    for name, folder in (("the home directory", "."), (logdir, logdir)):
        if folder and (line := full_disk(name, folder)):
            lines.append(line)
    return lines


def full_disk(name: str, folder: str) -> str:
    """That the disk of this folder is full, in one line; empty if it is not, or does not say."""
    path = Path(folder).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        disk = os.statvfs(path)
    except OSError:
        return ""
    available = disk.f_bavail * disk.f_frsize
    if available < FULL_BYTES:
        return f"disk full: {name} ({path}) has {available / 1e6:.0f} MB free"
    if disk.f_files and not disk.f_favail:
        return f"disk full: {name} ({path}) has no file entries (inodes) free"
    return ""
