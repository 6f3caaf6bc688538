"""What a run can do without: records, prints, gauges, evaluations, videos. Their failures are logged and end nothing.

Not for what a run depends on: the learner's step, the comparison of weights.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class SideTask:
    """Guards the calls of one side task.

    The first failure is logged; the following ones are quiet, and each call is a new attempt. The first call that works
    again is logged, too.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.failures = 0  # in a row

    def __call__(self, call: Callable[..., Result], *arguments: Any) -> Result | None:
        """Calls; None if that fails. MemoryError is such a failure, an interrupt is not."""
        try:
            result = call(*arguments)
        except Exception as problem:
            self.failures += 1
            if self.failures == 1:
                _log(logging.WARNING, "%s failed: %s; training continues", self._name, describe(problem))
            return None
        if self.failures:
            failures, self.failures = self.failures, 0
            _log(logging.INFO, "%s works again, after %d failures", self._name, failures)
        return result


def _log(level: int, message: str, *arguments: object) -> None:
    with contextlib.suppress(Exception):  # without memory even this may fail
        logger.log(level, message, *arguments)


def describe(problem: BaseException) -> str:
    """The exception in one line."""
    if isinstance(problem, OSError) and problem.strerror:
        return f"{problem.filename}: {problem.strerror}" if problem.filename else problem.strerror
    lines = re.sub(r"\{\{.*?\}\} ", "", str(problem)).strip().splitlines()  # TensorFlow's nodes say nothing here
    if isinstance(problem, OSError) and lines:
        return lines[0]
    return f"{type(problem).__name__}: {lines[0]}" if lines else type(problem).__name__
