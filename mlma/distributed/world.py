"""The ranks that mpirun started, read from its environment variables. Imports nothing heavy."""

from __future__ import annotations

import os
from typing import NamedTuple


class World(NamedTuple):
    """This process among those that mpirun started; alone if none did."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1  # how many of them are on this host

    @classmethod
    def here(cls) -> World:
        defaults = cls()
        return cls(*(int(os.environ.get(f"OMPI_COMM_WORLD_{n.upper()}", getattr(defaults, n))) for n in cls._fields))


def started_by_mpirun() -> bool:
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def available_cores() -> int:
    """For each learner of this host."""
    return max(1, len(os.sched_getaffinity(0)) // World.here().local_size)
