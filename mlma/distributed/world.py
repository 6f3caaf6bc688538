"""The ranks that mpirun started, read from its environment variables. Imports nothing heavy."""

from __future__ import annotations

import os
from typing import NamedTuple


class World(NamedTuple):
    """This process among those that mpirun started; a world of one without mpirun."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1  # ranks on this host

    @classmethod
    def from_environment(cls) -> World:
        """Reads Open MPI's variables."""
        defaults = cls()
        return cls(*(int(os.environ.get(f"OMPI_COMM_WORLD_{n.upper()}", getattr(defaults, n))) for n in cls._fields))
