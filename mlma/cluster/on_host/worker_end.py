"""Why a worker ended, in one line: its exit code in words, and the line of its output that names the error. How long it
worked.

Copied to the host next to supervisor.py, so it needs only Python 3.8 or later and its standard library.
"""

from __future__ import annotations

import re
import signal

MAX_CHARACTERS, CUT = 300, " ... "  # of the line that is shown
SIGNAL_CODES = range(129, 193)  # exit codes by which shells and mpirun pass on that a signal ended their child
ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
WORDS = re.compile(r"[^\W_]{2}")  # rules and frames have none
PREFIX = re.compile(r"^(\d{4}-\d\d-\d\d )?(\d\d:\d\d:\d\d )?(\[[^\]]*\] )?")
EXCEPTION = re.compile(r"^((learner|actor) \d+: )?([a-z_]\w*\.)*[A-Z]\w*(Error|Exception|Exit|Interrupt)\b")
FAILURE_CLASS = re.compile(r"^mlma\.envs\.failures\.\w+: ")
# mlma/envs/failures.py; the exit codes are those of mlma/utils/child_process.py: it never worked, or it did at first.
ENVIRONMENT_CODES = (2, 4)
ENVIRONMENT_FAILURE = re.compile(
    r"^(?:\w+\.)*(?:EnvironmentFailedError|SimulatorLostError): .*\(after \d+ steps in ([\d.]+) s\)$", re.MULTILINE
)
CONSEQUENCE = re.compile(r"HorovodInternalError|BrokenPipeError|LearnerLostError")  # of what happened elsewhere
ERROR_WORDS = re.compile(
    r"\b(error|fatal|fail(ed|s|ure)?|cannot|could not|unable|refused|denied|not found|no such|no space|not installed"
    r"|out of memory|oom|killed|lost|abort(ed|ing)?|segmentation|hangs|ending the run|does not answer|timed out)\b",
    re.IGNORECASE,
)
# Of Open MPI, which frames its advice with rules. Only these lines of it name a host or a process.
RULE = re.compile(r"^-{20,}$")
LOST_HOST = re.compile(r"^Remote (?:daemon: .*\bon node|host:) +(\S+)")
EXITED_PROCESS = re.compile(r"^(?:mpirun|prterun) noticed that (process .*)")


def describe_code(code: int) -> str:
    """The end of a process; `code` is negative after a signal."""
    number = -code if code < 0 else code - 128 if code in SIGNAL_CODES else 0
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"ended with code {code}"
    return f"ended by {name}" if code < 0 else f"ended with code {code} ({name})"


def error_line(output: str) -> str:
    """The line of a worker's output that says why it ended; empty if none does."""
    lines, advice = _without_advice([_plain(line) for line in output.splitlines()])
    lines = [line for line in lines if WORDS.search(line)]
    exceptions = [line for line in lines if EXCEPTION.match(line)]
    causes = [line for line in exceptions if not CONSEQUENCE.search(line)]
    lost = [f"mpirun lost the host {match[1]}" for line in advice if (match := LOST_HOST.match(line))]
    errors = [line for line in lines if ERROR_WORDS.search(line)]
    exited = [match[1] for line in advice if (match := EXITED_PROCESS.match(line))]
    advice = [line for line in advice if WORDS.search(line)]
    found = causes or exceptions or lost or errors or exited or lines
    found = found or [line for line in advice if ERROR_WORDS.search(line)][:1] or advice
    return _shortened(FAILURE_CLASS.sub("", found[-1])) if found else ""


def worked_seconds(output: str, code: int, lived: float) -> float:
    """How long a worker worked of the seconds that it lived: an actor whose environments failed, as long as they were
    stepped. Starting a simulator, and waiting for one that does not answer, can take minutes."""
    failures = ENVIRONMENT_FAILURE.findall(output) if code in ENVIRONMENT_CODES else []
    return min(lived, float(failures[-1])) if failures else lived


def _shortened(line: str) -> str:
    """Without its middle if it is long: the last lines that a simulator printed are at its end."""
    if len(line) <= MAX_CHARACTERS:
        return line
    half = (MAX_CHARACTERS - len(CUT)) // 2
    return f"{line[:half]}{CUT}{line[-half:]}"


def _without_advice(lines: list[str]) -> tuple[list[str], list[str]]:
    """The lines that are not between two rules, and those that are."""
    parts: tuple[list[str], list[str]] = [], []
    inside = False
    for line in lines:
        if RULE.match(line):
            inside = not inside
        else:
            parts[inside].append(line)
    return parts


def _plain(line: str) -> str:
    """Without colours, time and indentation. Of a line that was drawn again and again, the last state."""
    return PREFIX.sub("", ESCAPE_SEQUENCE.sub("", line).rstrip().rpartition("\r")[2].strip())
