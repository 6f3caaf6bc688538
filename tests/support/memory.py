"""How much memory a process takes, also for a moment: some versions of glibc return it at once."""

from __future__ import annotations

from pathlib import Path


class PeakMemory:
    """The peak of a process's resident memory from now on."""

    def __init__(self, pid: int | str = "self") -> None:
        self._process = Path(f"/proc/{pid}")
        (self._process / "clear_refs").write_text("5")  # the peak is now what the process has
        self._before = self._peak()

    def growth(self) -> int:
        """By how many bytes the peak is above the memory at the beginning."""
        return self._peak() - self._before

    def _peak(self) -> int:
        lines = (self._process / "status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
