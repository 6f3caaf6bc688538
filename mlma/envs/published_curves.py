"""Published learning curves and final scores, each with its protocol, to draw beside runs of one's own.

The tables in mlma/envs/published/: `curves.csv` (points), `series.csv` (label, line, number of runs and source of each
curve), `results.csv` (final scores), `protocols.csv`. How to add to them: docs/guides/evaluate.md. Imports no
simulator. Not here: human and random scores (mlma/envs/reference_scores.py), drawing
(mlma/evaluation/published_charts.py).
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlma.envs.level_syntax import parse_atari_name, published_rows
from mlma.envs.reference_scores import reference_returns, table_key

YES, NO = "yes", "no"


class Protocol(NamedTuple):
    """How returns came about; None or "" where the source does not say."""

    name: str
    sticky_actions: float | None  # probability that the previous action is repeated
    life_loss_ends_return: bool | None  # of the return that is learned; reported returns are of whole games
    fire_reset: bool | None  # FIRE is pressed for the agent at the start of a game
    noop_max: int | None  # no-ops at the start of a game
    returns: str  # over what the reported return is a mean

    def describe(self) -> str:
        """The protocol in words, without its name."""
        if self[1:5] == (None, None, None, None):
            return "protocol not checked"
        words = [
            _word(self.sticky_actions, "no sticky actions", f"sticky actions {self.sticky_actions}", "sticky actions"),
            _word(self.life_loss_ends_return, "whole games", "a lost life ends the learned return", "life loss"),
            _word(self.fire_reset, "no FIRE at reset", "FIRE at reset", "FIRE at reset"),
            _word(self.noop_max, "no no-ops", f"up to {self.noop_max} no-ops", "no-ops"),
        ]
        return ", ".join([*words, self.returns] if self.returns else words)

    def agreement(self, other: Protocol) -> int:
        """In how many of its rules it is known to agree with another protocol."""
        return sum(own is not None and own == others for own, others in zip(self[1:5], other[1:5], strict=True))


def _word(value: float | bool | None, without: str, with_it: str, name: str) -> str:
    if value is None:
        return f"{name} not stated"
    return with_it if value else without


class PublishedCurve(NamedTuple):
    """Returns over frames: the mean over `runs`, and where known the lowest and the highest of them."""

    label: str
    algorithm: str
    line: str  # how it is drawn, in matplotlib's words
    frames: tuple[float, ...]  # ascending
    returns: tuple[float, ...]
    low: tuple[float, ...]  # empty for a single run
    high: tuple[float, ...]
    runs: int
    protocol: Protocol
    source: str

    def at(self, frames: float, values: Sequence[float] | None = None) -> float | None:
        """The return after this many frames, between two points by interpolation; None outside the curve.

        `values` are `low` or `high` instead of the means.
        """
        values = self.returns if values is None else values
        if not values or not self.frames[0] <= frames <= self.frames[-1]:
            return None
        i = max(1, bisect.bisect_left(self.frames, frames))
        share = (frames - self.frames[i - 1]) / (self.frames[i] - self.frames[i - 1])
        return values[i - 1] + share * (values[i] - values[i - 1])


class PublishedResult(NamedTuple):
    """A final score."""

    label: str
    episode_return: float
    frames: float | None  # None: the source trained for days and does not give the frames of this score
    protocol: Protocol
    source: str


class PublishedLevel(NamedTuple):
    """All that is published about one level; everything may be empty."""

    references: dict[str, float]  # returns without frames: human, random, the best that is possible
    curves: list[PublishedCurve]
    results: list[PublishedResult]


NOTHING = PublishedLevel({}, [], [])


def published_level(level_name: str) -> PublishedLevel:
    """What is published about a level, under any of its names."""
    return PublishedLevel(reference_returns(level_name), published_curves(level_name), published_results(level_name))


def published_curves(level_name: str) -> list[PublishedCurve]:
    """The published curves of a level, under any of its names; in the order of series.csv."""
    return _curves().get(table_key(level_name), [])


def published_results(level_name: str) -> list[PublishedResult]:
    """The published final scores of a level, under any of its names."""
    key = table_key(level_name)
    return [
        PublishedResult(
            row["label"],
            float(row["return"]),
            float(row["frames"]) if row["frames"] else None,
            _protocols()[row["protocol"]],
            row["source"],
        )
        for row in published_rows("results")
        if row["level"] == key and row["protocol"]
    ]


def nearest_curve(curves: Sequence[PublishedCurve], protocol: Protocol, algorithm: str) -> PublishedCurve | None:
    """The curve whose protocol agrees most with `protocol`; of several, one of the same algorithm, or the first."""
    return max(
        curves, key=lambda curve: (curve.protocol.agreement(protocol), curve.algorithm == algorithm), default=None
    )


def protocol_of_run(flags: Mapping[str, Any]) -> Protocol | None:
    """The protocol of a run of this toolkit, from its config.json; None if its level is not an Atari game."""
    parsed = parse_atari_name(str(flags.get("level_name", "")))
    if parsed is None:
        return None
    sticky = float(flags.get("sticky_actions", -1))
    return Protocol(
        "this toolkit",
        sticky if sticky >= 0 else parsed[1],
        flags.get("life_loss_ends_return"),
        flags.get("fire_reset"),
        flags.get("noop_max"),
        "last 100 training episodes",
    )


@functools.cache
def _protocols() -> dict[str, Protocol]:
    answers = {YES: True, NO: False, "": None}
    return {
        row["protocol"]: Protocol(
            row["name"],
            float(row["sticky_actions"]) if row["sticky_actions"] else None,
            answers[row["life_loss_ends_return"]],
            answers[row["fire_reset"]],
            int(row["noop_max"]) if row["noop_max"] else None,
            row["returns"],
        )
        for row in published_rows("protocols")
    }


@functools.cache
def _curves() -> dict[str, list[PublishedCurve]]:
    """Level -> its curves."""
    points: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in published_rows("curves"):
        points.setdefault((row["level"], row["series"]), []).append(row)
    levels = dict.fromkeys(level for level, _ in points)
    return {
        level: [
            _curve(series, points[level, series["series"]])
            for series in published_rows("series")
            if (level, series["series"]) in points
        ]
        for level in levels
    }


def _curve(series: dict[str, str], points: list[dict[str, str]]) -> PublishedCurve:
    frames, returns, low, high = (
        tuple(float(point[column]) for point in points if point[column])
        for column in ("frames", "return", "low", "high")
    )
    return PublishedCurve(
        series["label"],
        series["algorithm"],
        series["line"],
        frames,
        returns,
        low,
        high,
        int(series["runs"]),
        _protocols()[series["protocol"]],
        series["source"],
    )
