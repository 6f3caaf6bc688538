"""`status` and `best`: a study as it is now, from its journal and the files of its members. Starts and changes nothing.

Not here: curves and statistics (mlma/studies/report_page/page.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mlma.core.config import flag_table
from mlma.studies.definition import Definition
from mlma.studies.journal import Journal, Member, run_name
from mlma.studies.run_files import (
    Saved,
    hosts_in_use,
    is_in_use,
    is_watched,
    last_score,
    newest_checkpoint,
    number,
    saved,
)

HEAD = ("member", "state", "copies", "frames", "score", "checkpoint", "values")
UNKNOWN = "-"


class Line(NamedTuple):
    """A member, as `status` and the report show it."""

    member: Member
    state: str
    frames: float
    score: float
    age: float  # seconds since its last checkpoint; NaN without one


def lines_of(definition: Definition, journal: Journal) -> list[Line]:
    """The members in order."""
    return [_line(definition, member) for member in journal.members]


def status(definition: Definition, journal: Journal) -> str:
    """The table of `status`."""
    table = flag_table()
    rows = [HEAD]
    for line in lines_of(definition, journal):
        member = line.member
        rows.append(
            (
                member.name,
                line.state,
                str(member.generation) if definition.pbt else UNKNOWN,
                f"{line.frames:,.0f}",
                UNKNOWN if math.isnan(line.score) else f"{line.score:.5g}",
                UNKNOWN if math.isnan(line.age) else f"{_duration(line.age)} ago",
                " ".join(f"{name}={table[name].format(value)}" for name, value in member.values.items()),
            )
        )
    running = "its controller runs" if is_in_use(definition.folder) else "no controller runs"
    count, more = f"{len(journal.members)} members", ""
    if definition.pbt:
        more = f"; {len(journal.exploits)} copies"
    if definition.optuna:
        count = f"{len(journal.members)} of {definition.options.trials} trials"
        more = f"; {sum(member.outcome == 'pruned' for member in journal.members)} pruned"
    title = f"{definition.folder}: {count}, {running}{more}; score: {definition.metric}"
    return "\n".join([title, *format_table(rows)])


def format_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines in columns; the last column may be of any length."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()


def best(definition: Definition, journal: Journal) -> Saved | None:
    """The checkpoint with the highest score, of all runs that members had; None before the first one."""
    found = []
    for member in journal.members:
        for generation in range(member.generation + 1):
            run = definition.folder / "members" / run_name(member.number, generation)
            for path in (run / "checkpoints" / "best.npz", newest_checkpoint(run)):
                checkpoint = saved(path, definition.metric, level_of(definition, member))
                if checkpoint and not math.isnan(checkpoint.score):
                    found.append(checkpoint)
    return max(found, key=lambda checkpoint: checkpoint.score, default=None)


def level_of(definition: Definition, member: Member) -> str:
    """The level that the member trains on."""
    name = "level_name"
    return str(member.values.get(name, definition.flags.get(name, flag_table()[name].default)))


def _line(definition: Definition, member: Member) -> Line:
    run = definition.folder / "members" / member.run
    frames, score = last_score(run, definition.metric, level_of(definition, member))
    checkpoint = newest_checkpoint(run)
    if not frames and checkpoint:  # a copy that has not reported yet
        frames, score = member.compared_at, math.nan if member.score is None else member.score
    state = "running" if is_in_use(run) or is_watched(run) else member.outcome.replace("_", " ") or "waiting"
    if state in ("turn", "failed", "replaced"):
        state = "waiting"
    if state in ("waiting", "lost") and hosts_in_use(run):
        state = "unwatched"  # trains on its hosts, as far as is known here
    return Line(member, state, frames, number(str(score)), _age(checkpoint))


def _age(path: Path | None) -> float:
    try:
        return time.time() - path.stat().st_mtime if path else math.nan
    except OSError:  # it has just been replaced by the next one
        return 0.0


def _duration(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
