"""The memory of this machine: all of it, and what a process may still allocate."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_FOLDER = Path("/sys/fs/cgroup")
CGROUP_FILES = (  # limit, usage and its parts, in versions 2 and 1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def available_memory() -> float:
    """Bytes that this process may still allocate, limited by the machine and by the container it runs in."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    for files in CGROUP_FILES:
        try:
            limit, usage, statistics = ((CGROUP_FOLDER / name).read_text().strip() for name in files)
        except OSError:
            continue
        if limit.isdigit():
            counts = dict(line.split() for line in statistics.splitlines())
            cache = int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))  # the kernel gives it back
            available = min(available, float(int(limit) - int(usage) + cache))
    return min(available, total_memory())


def total_memory() -> float:
    """Bytes of memory that this process could have at most: the machine's, or its container's."""
    total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit_file, _, _ in CGROUP_FILES:
        try:
            limit = (CGROUP_FOLDER / limit_file).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            total = min(total, float(limit))
    return total
