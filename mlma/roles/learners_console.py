"""The console of the process that launches several learners: the live table that a single learner draws itself.

Learners under mpirun write to a pipe. Where that leads to a terminal, their launcher shows their lines above a table
of the reports, which it reads from metrics.csv. Anywhere else, the first learner prints a line for each report. Not
here: how a report looks (mlma/monitoring/console.py), who launches (mlma/distributed/mpi_launcher.py).
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mlma.core.config import Config
from mlma.distributed.mpi_launcher import must_launch, supervise_learners
from mlma.envs.vector import temp_folder
from mlma.monitoring.console import ConsoleDisplay
from mlma.monitoring.metrics import Row
from mlma.utils.own_files import open_own

LOOK_SECONDS = 1.0  # between two looks at metrics.csv
PART_BYTES = 2**16  # of metrics.csv that are read at its beginning, with the names, and at its end, with the last row
REST_SECONDS = 5.0  # for the last lines of learners that have ended


class LearnersConsole:
    """See mlma.distributed.mpi_launcher.LearnersConsole."""

    def __init__(self, config: Config) -> None:
        """`config` is the resolved one."""
        learners = config.distributed.num_learners
        title = f"{config.run.algorithm} {config.environment.level_name} {config.run.agent_name}, {learners} learners"
        self._display = ConsoleDisplay(title, config.run.total_environment_frames)
        self._reports = LastReport(Path(config.run.logdir) / "metrics.csv")

    def show(self, line: str) -> None:
        """Shows a line."""
        self._display.show(line)

    @contextlib.contextmanager
    def follow(self, output: IO[bytes]) -> Iterator[None]:
        """Shows the lines of `output`, and the reports of the run, until the end of the context."""
        ended = threading.Event()

        def show_reports() -> None:
            while not ended.wait(LOOK_SECONDS):
                if row := self._reports.new():
                    self._display.on_report(row)

        def show_lines() -> None:
            for line in output:
                self.show(line.decode(errors="replace").rstrip())

        lines, reports = (threading.Thread(target=task, daemon=True) for task in (show_lines, show_reports))
        with self._display:
            lines.start()
            reports.start()
            try:
                yield
            finally:
                lines.join(REST_SECONDS)
                ended.set()
                reports.join()
                if row := self._reports.new():
                    self._display.on_report(row)


class LastReport:
    """The last row of a metrics.csv that grows."""

    def __init__(self, path: Path) -> None:
        """What is in the file now is not new."""
        self._path, self._seen = path, ("", "")
        self.new()

    def new(self) -> Row | None:
        """The last row, unless it is not new or cannot be read."""
        try:
            with open_own(self._path, os.O_RDONLY) as file:
                data = file.read(PART_BYTES)
                header = data.partition(b"\n")[0].decode(errors="replace")
                if file.seek(0, os.SEEK_END) > PART_BYTES:  # the file of a long run is not read as a whole
                    file.seek(-PART_BYTES, os.SEEK_END)
                    data = file.read()
        except OSError:
            return None
        whole, _, _ = data.decode(errors="replace").rpartition("\n")  # a last line without an end is part of a row
        last = whole.rpartition("\n")[2]
        if last in ("", header) or (header, last) == self._seen:
            return None
        self._seen = (header, last)
        names, values = csv.reader(io.StringIO(f"{header}\n{last}\n"))
        try:
            return {name: float(value) for name, value in zip(names, values, strict=True) if value}
        except ValueError:
            return None


def launch_learners(given: Config, config: Config) -> int | None:
    """Launches the learners of a run that needs mpirun, and waits for them: their exit code; None for other runs.

    `given` are the flags as given, `config` the resolved ones.
    """
    if not must_launch(config):
        return None
    temp_folder.use_for_this_process()  # also of mpirun, which leaves files behind when it is killed
    return supervise_learners(given, LearnersConsole(config) if sys.stdout.isatty() else None)
