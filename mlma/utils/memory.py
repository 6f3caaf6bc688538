"""The memory of this machine that a process may still allocate."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory() -> float:
    """Bytes that this process may still allocate, limited by the machine and by the container it runs in."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    cgroup_files = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    for limit_file, usage_file in cgroup_files:
        try:
            limit, usage = ((Path("/sys/fs/cgroup") / name).read_text().strip() for name in (limit_file, usage_file))
        except OSError:
            continue
        if limit.isdigit():
            available = min(available, float(int(limit) - int(usage)))
    return min(available, float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
