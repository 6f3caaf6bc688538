"""Errors in the code of environments: what is said about them, and how equal ones are recognised in an actor's log.

Not here: what a learner does about them (mlma/roles/local_actors.py), the trial before training (mlma/envs/trial.py).
"""

from __future__ import annotations

import re
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from mlma.utils.import_object import in_one_line

MLMA = f"{Path(__file__).parents[1]}/"
MAX_FRAMES, MAX_CHARACTERS = 20, 6000  # of a traceback
WINDOW_SECONDS = 600.0  # within which equal errors are counted
NO_ANSWER = "no answer for "  # mlma/envs/vector/multiprocess.py
LAST_LINES = "; its last line"  # mlma/envs/vector/worker_output.py
YOUNG_SECONDS = 60.0  # of stepping, after which an error is not counted: restarts keep such a run going


class WrongResultError(ValueError):
    """The environment returned something that does not fit its spaces; the text follows "reset" or "step"."""


class EnvironmentFailedError(RuntimeError):
    """`reset` or `step` of an environment raised. Its text is one line, and the environment's own traceback below."""

    def __init__(self, level_name: str, method: str, error: Exception, steps: int, seconds: float) -> None:
        """`steps` and `seconds` are since the environments were reset for the first time."""
        self.steps = steps
        if isinstance(error, WrongResultError):
            line, self.details = f"{method} {error}", ""
        else:
            line, self.details = f"{method} raised {in_one_line(error)}", _own_traceback(error)
        self.line = f"{level_name}: {line}" if level_name else line
        super().__init__(f"{self.line} (after {steps} steps in {seconds:.1f} s)\n{self.details}".rstrip())


class SimulatorLostError(RuntimeError):
    """Worker processes of an environment crash or hang one after the other. Its text is one line."""

    def __init__(self, level_name: str, problem: str, steps: int, seconds: float) -> None:
        """`steps` and `seconds` are since the environments were reset for the first time."""
        self.steps, self.line = steps, f"{level_name}: {problem}"
        super().__init__(f"{self.line} (after {steps} steps in {seconds:.1f} s)")


def _own_traceback(error: Exception) -> str:
    """The traceback without the frames of this package that led to the environment."""
    trace = error.__traceback__
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename.startswith(MLMA):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace, limit=-MAX_FRAMES))
    return text[-MAX_CHARACTERS:].rstrip()


class LoggedFailure(NamedTuple):
    """An `EnvironmentFailedError` as it stands at the end of a log."""

    line: str
    details: str

    @property
    def is_young(self) -> bool:
        """Whether the environments had not worked for long."""
        match = re.search(r"\(after \d+ steps in ([\d.]+) s\)$", self.line)
        return match is None or float(match[1]) < YOUNG_SECONDS

    @property
    def kind(self) -> str:
        """What equal errors share: the method, the type and the place, but neither the text nor what was printed."""
        line = re.sub(r" \(after \d+ steps in [\d.]+ s\)$", "", self.line).partition(LAST_LINES)[0]
        match = re.match(r"(.*? raised \S+ at .*?:\d+)(: |$)", line)
        return match[1] if match else line


def find_failures(log: str) -> list[LoggedFailure]:
    """The failures of environments in a log: one, or one of each worker process that failed."""
    _, *texts = re.split(f"(?:{EnvironmentFailedError.__name__}|{SimulatorLostError.__name__}): ", log)
    parts = [text.partition("\n") for text in texts]
    return [LoggedFailure(line, details[:MAX_CHARACTERS].rstrip()) for line, _, details in parts]


class RepeatedFailureError(RuntimeError):
    """The environments failed again and again with the same error."""


class FailureCounter:
    """Counts equal failures."""

    def __init__(self, limit: int, hang_seconds: float = 0.0) -> None:
        """`limit` equal ones within WINDOW_SECONDS, of environments that had just started, are too many; 0 is no limit.
        The window is longer for a simulator that does not answer: each time, that takes `hang_seconds` to find out."""
        self._limit, self._hang_seconds = limit, hang_seconds
        self._times: dict[str, list[float]] = {}

    def add(self, failure: LoggedFailure) -> RepeatedFailureError | None:
        """Counts one; the error that ends the run, with the environment's traceback, if it is one too many."""
        if not failure.is_young:
            return None
        now, window = time.monotonic(), WINDOW_SECONDS
        if NO_ANSWER in failure.kind:
            window += self._limit * self._hang_seconds
        times = [when for when in self._times.get(failure.kind, []) if now - when < window]
        self._times[failure.kind] = times = [*times, now]
        if not self._limit or len(times) < self._limit:
            return None
        problem = RepeatedFailureError(f"{len(times)} equal errors of environments (--max_env_errors): {failure.line}")
        if failure.details:
            problem.add_note(failure.details)
        return problem
