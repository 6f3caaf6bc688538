"""Charts of a population: the schedules that it found, and who descends from whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib.pyplot as plt

from mlma.evaluation.charts import render_svg
from mlma.evaluation.html_elements import figure
from mlma.studies.definition import Definition
from mlma.studies.journal import Journal
from mlma.studies.report_page.curves import runs_of

MAX_RATIO = 10.0  # of values on a linear axis


class Stretch(NamedTuple):
    """A run of a member: from where to where, with which values, and the first member that its weights come from."""

    member: int
    first: float  # frames
    last: float
    values: dict[str, Any]
    root: int


def stretches_of(definition: Definition, journal: Journal) -> list[Stretch]:
    """All runs of a population, by member and generation."""
    copies = {(event["member"], event["generation"]): event for event in journal.exploits}
    roots: dict[tuple[int, int], int] = {(member.number, 0): member.number for member in journal.members}
    for event in journal.exploits:  # in the order in which they happened
        parent = event["parent"], event["parent_generation"]
        roots[event["member"], event["generation"]] = roots[parent]
    first_values = {}
    for member in journal.members:
        first = copies.get((member.number, 1))
        changed = {name: before for name, (before, _) in first["changes"].items()} if first else {}
        first_values[member.number] = member.values | changed
    found = []
    for member in journal.members:
        for generation, curve in enumerate(runs_of(definition, member)):
            copy = copies.get((member.number, generation))
            start = copy["parent_frames"] if copy else 0.0
            following = copies.get((member.number, generation + 1))
            ends = [start, following["frames"] if following else 0.0, *curve.frames[-1:]]
            values = copy["values"] if copy else first_values[member.number]
            found.append(Stretch(member.number, start, max(ends), values, roots[member.number, generation]))
    return found


def population_figures(definition: Definition, journal: Journal) -> list[str]:
    """A chart for each hyperparameter, and the genealogy."""
    stretches = stretches_of(definition, journal)
    figures = [_figure(f"Schedule of {name}", name, _schedule(name, stretches, journal)) for name in definition.vary]
    return [*figures, _figure("Genealogy: colors are the first ancestors", "member", _genealogy(stretches, journal))]


def _figure(title: str, label: str, draw: Callable[[Any], None]) -> str:
    return figure(title, render_svg(draw, "million frames", label).encode(), "image/svg+xml")


def _color(number: int) -> Any:
    return plt.get_cmap("tab20")(number % 20)


def _schedule(name: str, stretches: list[Stretch], journal: Journal) -> Callable[[Any], None]:
    """A line for each member; a dotted one leads from the parent's value to that of the copy."""

    def draw(axis: Any) -> None:
        values = [stretch.values[name] for stretch in stretches]
        for stretch in stretches:
            line = [stretch.first / 1e6, stretch.last / 1e6], [stretch.values[name]] * 2
            axis.plot(*line, color=_color(stretch.member), linewidth=1.8, solid_capstyle="butt")
        for event in journal.exploits:
            frames, color = event["parent_frames"] / 1e6, _color(event["member"])
            ends = [event["parent_values"][name], event["values"][name]]
            axis.plot([frames, frames], ends, color=color, linestyle=":", linewidth=1)
        if max(values) > MAX_RATIO * min(values):
            axis.set_yscale("log")

    return draw


def _genealogy(stretches: list[Stretch], journal: Journal) -> Callable[[Any], None]:
    """A row for each member, an arrow for each copy."""

    def draw(axis: Any) -> None:
        for stretch in stretches:
            line = [stretch.first / 1e6, stretch.last / 1e6], [stretch.member] * 2
            axis.plot(*line, color=_color(stretch.root), linewidth=3, solid_capstyle="butt")
        for event in journal.exploits:
            frames = event["parent_frames"] / 1e6
            axis.annotate(
                "",
                xy=(frames, event["member"]),
                xytext=(frames, event["parent"]),
                arrowprops={"arrowstyle": "->", "color": "#666666", "linewidth": 0.9},
            )
        axis.set_yticks(range(len(journal.members)), [member.name for member in journal.members])
        axis.invert_yaxis()

    return draw
