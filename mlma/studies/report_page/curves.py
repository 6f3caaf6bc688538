"""The curves of a study: what each member has measured, and the members of each setting together.

A member of a population has several runs, one for each copy. Statistics are over the last runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlma.studies.definition import Definition
from mlma.studies.journal import Journal, Member, run_name
from mlma.studies.overview import level_of
from mlma.studies.run_files import number, read_rows, score_of

POINTS = 200  # of the statistics of a setting


class Curve(NamedTuple):
    """What a run, or a member, has measured."""

    frames: Any  # [reports]
    scores: Any  # [reports]


class Setting(NamedTuple):
    """Members that differ only by their seed."""

    label: str
    members: list[Member]
    curves: list[Curve]  # of the last run of each, if it has any reports
    earlier: list[Curve]  # of runs that copies have replaced

    def common(self) -> tuple[Any, Any]:
        """(frames [points], scores [members, points]) over the frames that all curves cover; empty without any."""
        usable = [curve for curve in self.curves if len(curve.frames)]
        if not usable:
            return np.zeros(0), np.zeros((0, 0))
        first, last = max(curve.frames[0] for curve in usable), min(curve.frames[-1] for curve in usable)
        frames = np.linspace(first, max(first, last), POINTS)
        return frames, np.stack([np.interp(frames, *curve) for curve in usable])

    def final_scores(self) -> Any:
        """[members] of the last reports."""
        return np.array([curve.scores[-1] for curve in self.curves if len(curve.scores)])


def curve_of_run(run: Path, metric: str, level: str) -> Curve:
    """The reports of a run that have a score."""
    points = [(number(row.get("frames")), score_of(row, metric, level)) for row in read_rows(run)]
    table = np.array(points, np.float64).reshape(-1, 2)
    table = table[np.isfinite(table).all(axis=1)]
    return Curve(table[:, 0], table[:, 1])


def runs_of(definition: Definition, member: Member) -> list[Curve]:
    """The curve of each run of a member, the first one first."""
    names = [run_name(member.number, generation) for generation in range(member.generation + 1)]
    level = level_of(definition, member)
    return [curve_of_run(definition.folder / "members" / name, definition.metric, level) for name in names]


def settings_of(definition: Definition, journal: Journal) -> list[Setting]:
    """The members by their settings; all members of a population are one, since they take each other's."""
    groups: dict[str, list[Member]] = {}
    for member in journal.members:
        words = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                 for name, value in member.values.items() if name in definition.vary]  # fmt: skip
        label = "population" if definition.pbt else " ".join(words) or "all seeds"
        groups.setdefault(label, []).append(member)
    found = []
    for label, members in groups.items():
        last = [[run for run in runs_of(definition, member) if len(run.frames)] for member in members]
        earlier = [run for runs in last for run in runs[:-1]]
        found.append(Setting(label, members, [runs[-1] for runs in last if runs], earlier))
    return found
