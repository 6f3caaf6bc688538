"""STUDY/report.html and report.json: curves and statistics of all members, and the history of a population.

Not here: the statistics (mlma/studies/report_page/statistics.py), charts of a population
(mlma/studies/report_page/population_charts.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from mlma.evaluation.charts import render_svg
from mlma.evaluation.html_elements import figure, format_number, grid, note, page, section, table
from mlma.studies.definition import Definition
from mlma.studies.journal import Journal
from mlma.studies.overview import HEAD, best, format_table, lines_of
from mlma.studies.report_page.curves import Setting, settings_of
from mlma.studies.report_page.population_charts import population_figures
from mlma.studies.report_page.statistics import CONFIDENCE, bootstrap, bootstrap_curve, iqm, mean
from mlma.utils.atomic_file import atomic_write

PAGE, NUMBERS = "report.html", "report.json"
STATISTICS_HEAD = ("setting", "members", "mean", "IQM", f"{CONFIDENCE:.0%} interval of the IQM", "lowest", "highest")


def write_report(definition: Definition, journal: Journal) -> int:
    """Writes both files and prints the statistics. The exit code."""
    settings = settings_of(definition, journal)
    numbers = [statistics_of(setting) for setting in settings if setting.curves]
    if not numbers:
        print("no member has a report with a score yet")
        return 1
    rows = [STATISTICS_HEAD, *(_cells(each) for each in numbers)]
    print("\n".join(format_table(rows)))
    pruned = [member.name for member in journal.members if member.outcome == "pruned"]
    content = {"metric": definition.metric, "settings": numbers, "exploits": journal.exploits, "pruned": pruned}
    for name, text in ((PAGE, _page(definition, journal, settings, rows)), (NUMBERS, json.dumps(content, indent=1))):
        with atomic_write(definition.folder / name) as file:
            file.write(text.encode())
        print(definition.folder / name)
    return 0


def statistics_of(setting: Setting) -> dict[str, Any]:
    """Mean and IQM of the last scores of a setting's members, with intervals."""
    scores = setting.final_scores()
    middle, average = bootstrap(scores[:, None], iqm), bootstrap(scores[:, None], mean)
    return {
        "setting": setting.label,
        "members": [member.name for member in setting.members],
        "scores": scores.tolist(),
        "mean": average.value,
        "mean_interval": [average.low, average.high],
        "iqm": middle.value,
        "iqm_interval": [middle.low, middle.high],
    }


def _cells(numbers: dict[str, Any]) -> tuple[str, ...]:
    low, high = numbers["iqm_interval"]
    scores = numbers["scores"]
    values = numbers["mean"], numbers["iqm"]
    return (
        numbers["setting"],
        str(len(scores)),
        *(f"{value:.5g}" for value in values),
        f"{low:.5g} to {high:.5g}",
        f"{min(scores):.5g}",
        f"{max(scores):.5g}",
    )


def _page(definition: Definition, journal: Journal, settings: list[Setting], rows: list[tuple[str, ...]]) -> str:
    charts = [
        _chart("All members, mean and range", definition.metric, lambda axis: _draw_members(axis, settings)),
        _chart(
            f"IQM with {CONFIDENCE:.0%} bootstrap interval", definition.metric, lambda axis: _draw_iqm(axis, settings)
        ),
    ]
    members = [
        (
            line.member.name,
            line.state,
            str(line.member.generation),
            format_number(line.frames),
            format_number(line.score),
            "" if math.isnan(line.age) else f"{line.age:.0f} s",
            ", ".join(f"{name} {value}" for name, value in line.member.values.items()),
        )
        for line in lines_of(definition, journal)
    ]
    found = best(definition, journal)
    explained = (
        f"Scores are {definition.metric} of the last report of each member. The IQM leaves out a quarter of the "
        "members at each end; intervals are percentile bootstraps over members, as in rliable (arXiv 2108.13264)."
    )
    parts = [
        f"<h1>{definition.folder.name}</h1>",
        note(f"best checkpoint: {found.path}, {definition.metric} {found.score:.5g}" if found else ""),
        section("Settings", table(rows[0], rows[1:]) + note(explained)),
        section("Curves", grid(charts)),
        section("Members", table(HEAD, members)),
    ]
    if definition.pbt:
        parts.append(section("Population", grid(population_figures(definition, journal))))
        parts.append(section("Copies", table(_COPIES_HEAD, [_copy_cells(event) for event in journal.exploits])))
    return page(f"Study {definition.folder.name}", parts)


_COPIES_HEAD = ("time", "member", "its score", "parent", "its score", "at frames", "changes")


def _copy_cells(event: dict[str, Any]) -> list[str]:
    score = event["score"]
    return [
        event["time"][:19].replace("T", " "),
        f"{event['member']:02d}",
        "" if score is None else f"{score:.5g}",
        f"{event['parent']:02d}",
        f"{event['parent_score']:.5g}",
        f"{event['parent_frames']:,.0f}",
        ", ".join(f"{name} {old:g} → {new:g}" for name, (old, new) in event["changes"].items()),
    ]


def _chart(title: str, metric: str, draw: Callable[[Any], None]) -> str:
    return figure(title, render_svg(draw, "million frames", metric).encode(), "image/svg+xml")


def _draw_members(axis: Any, settings: list[Setting]) -> None:
    """Each member in the color of its setting, and the mean and range over the frames that all of a setting have."""
    for number, setting in enumerate(settings):
        color = f"C{number % 10}"
        for curve in [*setting.earlier, *setting.curves]:
            axis.plot(curve.frames / 1e6, curve.scores, color=color, alpha=0.35, linewidth=0.8)
        frames, scores = setting.common()
        if len(scores):
            axis.plot(frames / 1e6, scores.mean(axis=0), color=color, linewidth=1.8, label=setting.label)
            axis.fill_between(
                frames / 1e6, scores.min(axis=0), scores.max(axis=0), color=color, alpha=0.12, linewidth=0
            )


def _draw_iqm(axis: Any, settings: list[Setting]) -> None:
    for number, setting in enumerate(settings):
        frames, scores = setting.common()
        if len(scores):
            curve, color = bootstrap_curve(scores, iqm), f"C{number % 10}"
            axis.plot(frames / 1e6, curve.value, color=color, linewidth=1.6, label=setting.label)
            axis.fill_between(frames / 1e6, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
