"""The processes of members on this machine: ordinary runs of experiment.py, tied to the controller.

Each runs under mlma/api/keeper.py, whose standard input is the bond: when the controller closes it, or ends in any way,
the run saves a checkpoint and ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mlma.core.config import flag_table
from mlma.studies.definition import Definition, to_arguments
from mlma.studies.journal import Member
from mlma.studies.run_files import is_in_use
from mlma.utils.child_process import available_cores
from mlma.utils.code_layout import PROGRAM_ENV, ROOT
from mlma.utils.own_files import make_own_folder

SCRIPT = ROOT / "experiment.py"
CORES_PER_MEMBER = 2  # a learner and an actor
STOP_SECONDS = 120.0  # to save a checkpoint and end, before a run is killed
SHOWN_CHARACTERS = 400
EXIT_LOST = 75  # of a member on hosts: that of its first learner does not answer


def suitable_number(given: int) -> int:
    """How many members train at once, if 0 is given."""
    return given or max(1, available_cores() // CORES_PER_MEMBER)


def shared_cores(flags: dict[str, Any], at_once: int) -> dict[str, Any]:
    """The flags that let `at_once` runs share the cores of this machine, where they are not given."""
    if at_once < 2:
        return {}
    share = max(1, available_cores() // at_once)
    actors = {} if flags.get("deterministic") else {"num_actors": share}
    return {name: value for name, value in (actors | {"learner_threads": share}).items() if name not in flags}


class LocalPlaces:
    """Starts members on this machine, `count` at once."""

    def __init__(self, definition: Definition, members: int, script: Path = SCRIPT) -> None:
        self._definition, self._script = definition, script
        self.count = min(suitable_number(definition.options.at_once), members)

    @property
    def usable(self) -> int:
        """How many members can train at the moment."""
        return self.count

    def start(self, member: Member, flags: dict[str, Any]) -> tuple[MemberProcess, dict[str, Any]] | None:
        """The process of a member, and what the journal should know; None if it has to wait."""
        run = self._definition.folder / "members" / member.run
        if is_in_use(run):  # what an earlier controller started still saves
            return None
        flags = flags | shared_cores(flags, self.count) | {"logdir": str(run)}
        output = self._definition.folder / "output" / f"{member.run}.log"
        command = ["mlma.api.keeper", sys.executable, str(self._script), *to_arguments(flags)]
        return MemberProcess(command, output), {}

    def ended(self, member: Member, code: int) -> None:
        """A member has ended, and its place is free."""

    def tend(self, current: set[str]) -> None:
        """Nothing: what is left of earlier runs ends by itself."""

    def close(self) -> None:
        """Nothing is held."""


class MemberProcess:
    """A process that trains or watches a member."""

    def __init__(self, command: list[str], output: Path) -> None:
        """Starts it: a module and its arguments. What it prints is appended to `output`."""
        make_own_folder(output.parent)
        environment = {name: value for name, value in os.environ.items() if name != PROGRAM_ENV}
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{known}" if known else str(ROOT)
        self._output = output
        with output.open("ab") as out:
            self._start = out.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env=environment | {"TERM": "dumb"},
                start_new_session=True,  # Ctrl-C is for the controller
            )
        self.pid = self._process.pid
        self.kill_at = float("inf")

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` has been called."""
        return self.kill_at < float("inf")

    def stop(self, replaced: bool = False) -> None:
        """Lets the run save a checkpoint and end, `replaced` by a copy; does not wait for it."""
        self._let_go(b"", STOP_SECONDS)

    def _let_go(self, word: bytes, seconds: float) -> None:
        """Closes the process's standard input, with a last word to it."""
        assert self._process.stdin
        if not self.is_stopping:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(word)
                self._process.stdin.close()
            self.kill_at = time.monotonic() + seconds

    def kill(self) -> None:
        """Ends it at once, and with it all that it started."""
        self._process.kill()

    def poll(self) -> int | None:
        """Its exit code, or None while it runs. Kills a run that does not end after `stop`."""
        if time.monotonic() > self.kill_at:
            self.kill()
        return self._process.poll()

    def last_line(self) -> str:
        """The last line that it has printed since it was started."""
        with self._output.open("rb") as file:
            file.seek(self._start)
            lines = [line.strip() for line in file.read()[-20_000:].decode(errors="replace").splitlines()]
        return next((line[:SHOWN_CHARACTERS] for line in reversed(lines) if line), "no output")


def known_flags(values: dict[str, Any]) -> str:
    """Values as they are shown: learning_rate=0.001 seed=2."""
    return " ".join(f"{name}={flag_table()[name].format(value)}" for name, value in values.items())
