"""The table of `status`, for a terminal of any size: learners and whatever is wrong are always shown.

Where there is no room, rows are counted by state, and problems that several workers share become one line. Not here:
where the rows come from (mlma/cluster/commands/status.py).
"""

from __future__ import annotations

import collections
import re
import textwrap
from collections.abc import Iterable
from typing import NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

STYLES = {
    "running": "green", "done": "green", "starting": "yellow", "waiting": "yellow", "stopped": "yellow",
    "failed": "bold red", "gone": "bold red", "unreachable": "bold red", "off": "dim", "pending": "dim",
}  # fmt: skip
GOOD_STATES = ("running", "done", "starting")
MAX_LISTED_WORKERS, MAX_LISTED_HOSTS = 4, 3  # with the same problem
MIN_HOST_WIDTH = 14
OTHER_COLUMNS_WIDTH = 46  # worker, state, time, frames/s, lag; the host and the last line share the rest
NARROW = 70  # columns of a terminal on which the numbers are left out
MIN_ROWS = 3


class WorkerRow(NamedTuple):
    """A row of the table."""

    worker: str
    host: str
    state: str
    time: str = ""  # in that state
    rate: str = ""
    lag: str = ""
    last_line: str = ""
    problem: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether somebody should look at this worker."""
        return bool(self.problem) or self.state not in GOOD_STATES


def render(rows: list[WorkerRow], title: str, width: int, height: int = 0) -> Group:
    """The table with a line for each problem. `height` is that of a terminal that cannot be scrolled."""
    problems = problem_lines(rows)
    hidden: list[WorkerRow] = []
    title_lines = sum(_lines_of(line, width) for line in title.split("\n"))
    if height and title_lines + 2 + len(rows) + sum(_lines_of(line, width) for line in problems) > height:
        problems = _fitting(problems, width, max(2, height // 3))
        used = title_lines + 3 + sum(_lines_of(line, width) for line in problems)
        order = sorted(rows, key=lambda row: (not row.worker.startswith("learner"), not row.is_bad))
        chosen = {row.worker for row in order[: max(MIN_ROWS, height - used)]}
        hidden = [row for row in rows if row.worker not in chosen]
        rows = [row for row in rows if row.worker in chosen]
    short = short_names({row.host for row in rows}, max(MIN_HOST_WIDTH, (width - OTHER_COLUMNS_WIDTH) // 2))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", expand=True)
    for name, texts in (
        ("worker", [row.worker for row in rows]),
        ("host", [short[row.host] for row in rows]),
        ("state", [row.state for row in rows]),
    ):
        table.add_column(name, no_wrap=True, min_width=max(map(len, (name, *texts))))
    numbers = ("time", "frames/s", "lag") if width >= NARROW else ()
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last line", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        cells = [Text(row.worker), Text(short[row.host]), Text(row.state, style=STYLES.get(row.state, ""))]
        table.add_row(*cells, *(row.time, row.rate, row.lag)[: len(numbers)], Text(row.last_line))
    rest = [_hidden_line(hidden)] if hidden else []
    notes = [Text(line, style="red") for line in problems]
    return Group(Text(title, style="bold"), table, *rest, *([Text("")] if notes and not height else []), *notes)


def problem_lines(rows: Iterable[WorkerRow]) -> list[str]:
    """A line for each problem, with the workers that have it; those of learners first."""
    by_problem: dict[str, list[WorkerRow]] = {}
    for row in sorted(rows, key=lambda row: not row.worker.startswith("learner")):
        if row.problem:
            by_problem.setdefault(row.problem, []).append(row)
    return [f"{_who(found)}: {problem}" for problem, found in by_problem.items()]


def short_names(names: Iterable[str], width: int) -> dict[str, str]:
    """Name -> the name without the domain that all share, and without its middle if it is still too long."""
    names = sorted(names)
    domains = [name.partition(".")[2] for name in names if not re.fullmatch(r"[\d.:\[\]]+|localhost", name)]
    domain = f".{domains[0]}" if len(set(domains)) == 1 and len(domains) > 1 and domains[0] else ""
    short = {}
    for name in names:
        text = name.removesuffix(domain) if domain else name
        tail = (width - 1) * 2 // 3  # where the number usually is
        short[name] = text if len(text) <= width else f"{text[: width - 1 - tail]}…{text[-tail:]}"
    return short if len(set(short.values())) == len(names) else dict(zip(names, names, strict=True))


def _who(rows: list[WorkerRow]) -> str:
    hosts = list(dict.fromkeys(row.host for row in rows))
    workers = _some([row.worker for row in rows], MAX_LISTED_WORKERS)
    if len(hosts) == 1:
        return f"{workers} on {hosts[0]}"
    return f"{workers} on {len(hosts)} hosts ({_some(hosts, MAX_LISTED_HOSTS)})"


def _some(names: list[str], most: int) -> str:
    others = len(names) - most
    return ", ".join(names[:most]) + (f" and {others} more" if others > 0 else "")


def _fitting(lines: list[str], width: int, most: int) -> list[str]:
    """As many of the lines as `most` lines of a terminal hold; the number of the others."""
    if sum(_lines_of(line, width) for line in lines) <= most:
        return lines
    short = [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]
    others = len(lines) - most + 1
    return short if others <= 1 else [*short[: most - 1], f"... and {others} more problems; `status` lists all"]


def _hidden_line(rows: list[WorkerRow]) -> Text:
    """How many rows are missing, by state, the bad ones first."""
    counts = collections.Counter(row.state for row in rows)
    states = sorted(counts, key=lambda state: (state in GOOD_STATES, state))
    bad = any(row.is_bad for row in rows)
    text = ", ".join(f"{counts[state]} {state}" for state in states)
    return Text(f"... and {len(rows)} more: {text}", style="bold red" if bad else "dim")


def _lines_of(text: str, width: int) -> int:
    return len(textwrap.wrap(text, width, break_on_hyphens=False)) or 1
