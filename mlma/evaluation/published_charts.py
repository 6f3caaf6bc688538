"""What is published about a level, beside a run: curves and scores in a chart, a table at the same frames, protocols.

Draws on axes that already show the run, so that the run decides what is in view. Not here: the data
(mlma/envs/published_curves.py), the charts (mlma/evaluation/charts.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D

from mlma.envs.published_curves import Protocol, PublishedCurve, PublishedLevel, PublishedResult
from mlma.evaluation.html_elements import format_number

CURVE_MARGIN, LINE_MARGIN = 1.0, 0.6  # how far what is published may widen the range of returns, in such ranges
GRAYS = ("0.25", "0.38", "0.50")  # one for each algorithm, in turn
LABEL_POINTS, LINE_SPACING = 7.5, 1.25
UP = "\N{UPWARDS ARROW}"
TABLE_HEAD = ("published", "return", "runs", "frames", "protocol", "source")


class MarginLabel(NamedTuple):
    """A label to the right of the axes, for something at the height `y`."""

    text: str
    y: float
    color: str


def draw_published(axis: Any, published: PublishedLevel, max_frames: float = 0.0, points: float = LABEL_POINTS) -> None:
    """Draws what is published behind the run. Call it after everything else is drawn.

    `max_frames` are those of the run if the x axis is in million frames: curves and scores are cut there. On another x
    axis (0), only lines for human, random and the best are drawn. `points` is the size of the labels.
    """
    curves = [curve for curve in published.curves if max_frames and curve.at(max_frames) is not None]
    results = [result for result in published.results if result.frames and result.frames <= max_frames]
    if max_frames:
        axis.set_xlim(-0.01 * max_frames / 1e6, 1.01 * max_frames / 1e6)
    low, high = axis.get_ylim()
    references = near_references(axis, published.references)
    ends = [curve.at(max_frames) for curve in curves] + [result.episode_return for result in results]
    reach = CURVE_MARGIN * (high - low)
    in_view = [end for end in ends if end is not None and low - reach <= end <= high + reach]
    low, high = min([low, *in_view, *references.values()]), max([high, *in_view, *references.values()])
    axis.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    labels = [_draw_reference(axis, *reference) for reference in references.items()]
    algorithms = list(dict.fromkeys(curve.algorithm for curve in curves))
    grays = [GRAYS[algorithms.index(curve.algorithm) % len(GRAYS)] for curve in curves]
    labels += [_draw_curve(axis, curve, max_frames, gray) for curve, gray in zip(curves, grays, strict=True)]
    labels += [_draw_result(axis, result) for result in results]
    place_labels(axis, labels, points)


def near_references(axis: Any, references: dict[str, float]) -> dict[str, float]:
    """The returns that do not squeeze what the axes show."""
    low, high = axis.get_ylim()
    margin = LINE_MARGIN * (high - low)
    return {name: value for name, value in references.items() if low - margin <= value <= high + margin}


def _draw_reference(axis: Any, name: str, value: float) -> MarginLabel:
    axis.axhline(value, color="gray", linestyle=":", linewidth=1, zorder=1)
    return MarginLabel(f"{name} {value:g}", value, "#555555")


def _draw_curve(axis: Any, curve: PublishedCurve, max_frames: float, gray: str) -> MarginLabel:
    end = curve.at(max_frames)
    assert end is not None
    points = [(x, y) for x, y in zip(curve.frames, curve.returns, strict=True) if x < max_frames] + [(max_frames, end)]
    x, y = np.array(points).T
    axis.plot(x / 1e6, y, color=gray, linestyle=curve.line, linewidth=1.1, zorder=1.5)
    return MarginLabel(f"{curve.label} {format_number(end)}", end, gray)


def _draw_result(axis: Any, result: PublishedResult) -> MarginLabel:
    assert result.frames
    axis.plot([result.frames / 1e6], [result.episode_return], "x", color=GRAYS[0], markersize=5, zorder=1.5)
    return MarginLabel(f"{result.label} {format_number(result.episode_return)}", result.episode_return, GRAYS[0])


def place_labels(axis: Any, labels: Sequence[MarginLabel], points: float) -> None:
    """Writes the labels to the right of the axes, by height, without overlap; an arrow marks those above the chart."""
    low, high = axis.get_ylim()
    labels = sorted((label for label in labels if label.y >= low), key=lambda label: label.y)
    axis.figure.draw_without_rendering()  # lays out the figure: the height of the axes is known only then
    inches = axis.figure.get_figheight() * axis.get_position().height
    spacing = points * LINE_SPACING / 72 / inches * (high - low)
    heights = [min(label.y, high) for label in labels]
    for i in range(1, len(heights)):  # labels must neither overlap nor leave the chart
        heights[i] = max(heights[i], heights[i - 1] + spacing)
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], high - (len(heights) - 1 - i) * spacing)
    to_data = axis.get_yaxis_transform()  # x in widths of the axes
    for label, height in zip(labels, heights, strict=True):
        above = label.y > high
        if not above:
            leader = Line2D([1.0, 1.02], [label.y, height], color=label.color, linewidth=0.6, transform=to_data)
            leader.set_clip_on(False)
            axis.add_artist(leader)
        text = f"{UP} {label.text}" if above else label.text
        axis.annotate(
            text,
            (1.025, height),
            xycoords=to_data,
            fontsize=points,
            color=label.color,
            va="center",
            annotation_clip=False,
        )


def left_out(axis: Any, published: PublishedLevel) -> list[str]:
    """The reference returns that are not in view, as text."""
    low, high = axis.get_ylim()
    return [
        f"{name} {format_number(value)}" for name, value in published.references.items() if not low <= value <= high
    ]


def describe_protocols(sources: Sequence[PublishedCurve | PublishedResult], own: Protocol | None = None) -> list[str]:
    """A sentence for the protocol of each source, and one for that of the run."""
    protocols = dict.fromkeys(source.protocol for source in sources)
    lines = [f"{protocol.name}: {protocol.describe()}." for protocol in protocols]
    return lines + ([f"This run: {own.describe()}."] if own and lines else [])


def comparison_rows(published: PublishedLevel, frames: float) -> list[list[str]]:
    """Rows below TABLE_HEAD: curves at these frames, or at their end if that comes first, then final scores."""
    rows = []
    for curve in published.curves:
        at = min(frames, curve.frames[-1])
        if (value := curve.at(at)) is None:
            continue
        low, high = curve.at(at, curve.low), curve.at(at, curve.high)
        spread = (
            "1" if low is None or high is None else f"{curve.runs}, from {format_number(low)} to {format_number(high)}"
        )
        rows.append([curve.label, format_number(value), spread, million(at), curve.protocol.name, curve.source])
    for result in sorted(published.results, key=lambda result: result.frames or np.inf):
        frames_cell = million(result.frames) if result.frames else "not stated"
        value_cell = format_number(result.episode_return)
        rows.append([result.label, value_cell, "", frames_cell, result.protocol.name, result.source])
    return rows


def million(frames: float) -> str:
    """Frames in millions; few of them in full."""
    return f"{frames / 1e6:.3g} M" if frames >= 1e5 else f"{frames:,.0f}"
