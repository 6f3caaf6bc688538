"""Does a worker make progress? Each writes a small file as it goes (`--health_folder`); this command reads it, on its host.

    python -m mlma.health --health_folder=/run/mlma

The file is written by the loop itself, not by a thread beside it: a worker that hangs for whatever reason falls silent. One
that waits for another worker says so, and is not taken for one that hangs. Times are those of the kernel's monotonic clock,
which all processes of a host share, those in containers too. Imports nothing heavy. Not here: who starts workers again
(mlma/cluster/supervise.py, docker/, sandbox/kubernetes/). docs/deploy.md
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from mlma import config as flags
from mlma.cluster.supervise import birth
from mlma.config import Config

SIZE = 512  # bytes of the file; it is written in place, so that a full disk takes nothing away from a worker
START = 600.0  # seconds for which a worker may be silent before its first progress: TensorFlow compiles, learners meet
ALIVE = ("progresses", "starved", "starting")


class Pulse:
    """A worker's end: says what it does, in microseconds each time. Without a folder it says nothing."""

    def __init__(self, folder: str, worker: str) -> None:
        """ValueError if the folder cannot be written to."""
        now = time.monotonic()
        self._record: dict[str, Any] = {
            "worker": worker, "pid": os.getpid(), "birth": birth(os.getpid()), "began": now, "beat": now,
            "progressed": None, "frames": 0, "waits_for": "", "may_be_silent": START,
        }  # fmt: skip
        self._path = Path(folder) / f"{worker}.json" if folder else None
        if self._path:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.unlink(missing_ok=True)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            except OSError as error:
                raise ValueError(f"--health_folder={folder}: {error.strerror}") from None
            self._beat()

    def works(self) -> None:
        """Nobody is waited for."""
        self._beat(waits_for="", may_be_silent=START if self._record["progressed"] is None else 0.0)

    def waits(self, what: str, seconds: float = 0.0) -> None:
        """Another worker must act first; `seconds` is how long it is waited for without a word, at most."""
        self._beat(waits_for=what, may_be_silent=seconds)

    def progressed(self, frames: int) -> None:
        """`frames` is how many there have been."""
        self._beat(waits_for="", may_be_silent=0.0, frames=frames, progressed=time.monotonic())

    def end(self) -> None:
        """It is over, and nobody need look any more."""
        if self._path:
            self._path.unlink(missing_ok=True)

    def _beat(self, **changes: Any) -> None:
        self._record |= changes | {"beat": time.monotonic()}
        if self._path:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, json.dumps(self._record).encode().ljust(SIZE), 0)


class Health(NamedTuple):
    worker: str
    state: str  # one of ALIVE, or hung, dead, not started
    why: str


def look(folder: Path, worker: str, seconds: float) -> list[Health]:
    """How the workers are that have written here, or the one that is asked for."""
    found = [judge(path, seconds) for path in sorted(folder.glob("*.json")) if worker in ("", path.stem)]
    return found or [Health(worker or "worker", "not started", f"nothing in {folder}: not started yet, or training is over")]


def judge(path: Path, seconds: float) -> Health:
    try:
        record = json.loads(path.read_text())
        silent = time.monotonic() - record["beat"]
        frames, progressed, waits_for = record["frames"], record["progressed"], record["waits_for"]
        process = f"process {record['pid']}"
        if birth(record["pid"]) != record["birth"]:
            return Health(path.stem, "dead", f"{process} is gone")
        if silent > seconds + record["may_be_silent"]:
            doing = f", when it began to wait for {waits_for}" if waits_for else ""
            return Health(path.stem, "hung", f"{process} was last heard of {silent:.0f} s ago{doing}")
        waiting = f"; waits for {waits_for}" if waits_for else ""
        if progressed is None:
            return Health(path.stem, "starting", f"for {time.monotonic() - record['began']:.0f} s, no progress yet{waiting}")
        ago = time.monotonic() - progressed
        said = f"{frames:,} frames, the last {ago:.1f} s ago"
        return Health(path.stem, "progresses" if ago <= seconds else "starved", said + (waiting if ago > seconds else ""))
    except (OSError, ValueError, TypeError, KeyError) as error:
        return Health(path.stem, "not started", f"{path} is not whole: {error!r}")


@dataclasses.dataclass(frozen=True)
class Question:
    # == Health
    # one worker, such as learner-0 or actor-3; else all that have written in --health_folder
    worker: str = ""
    # seconds within which there must have been progress, and after which a worker that says nothing hangs
    seconds: float = 60.0
    # ask for less: 0 unless a worker hangs, is dead or has not started; what waits for others would wait again after a restart
    live: bool = False


USAGE = (
    "usage: python -m mlma.health --health_folder=FOLDER [--flag=value ...]",
    "",
    "Exit code 0 if every worker made progress lately, else 1; a line for each says how it is.",
)


def parse(argv: list[str]) -> tuple[Config, Question]:
    """ValueError in one line."""
    config, given = flags.parse_with(argv, Question)
    question = Question(**given)
    if not config.health_folder:
        raise ValueError("--health_folder: is needed, the folder that the workers were given")
    if question.seconds <= 0:
        raise ValueError(f"--seconds={question.seconds}: must be more than 0")
    return config, question


def main() -> int:
    config, question = flags.answer(sys.argv[1:], parse, lambda: flags.help_text(Question, USAGE))
    found = look(Path(config.health_folder), question.worker, question.seconds)
    for health in found:
        print(f"{health.worker}: {health.state}: {health.why}")
    good = ALIVE if question.live else ALIVE[:1]
    return 0 if all(health.state in good for health in found) else 1


if __name__ == "__main__":
    sys.exit(main())
