"""Human-normalised scores: 100 (return - random) / (human - random), of a level and of a suite of levels.

The tables in mlma/envs/published/ are the papers': Atari-57 as in Wang et al. 2016 (arXiv 1511.06581), DMLab-30 as in the code
of the IMPALA paper, with test levels next to train levels. Knows no simulator. Not here: evaluation
(mlma/evaluation/evaluation.py).
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from mlma.envs.level_syntax import (
    DMLAB30_FOLDER,
    parse_atari_name,
    published_rows,
    to_snake_case,
    train_to_test_levels,
)

SCORE_CAP = 100.0


class ScoreRange(NamedTuple):
    """Mean returns of random play and of a human."""

    random: float
    human: float

    def normalised(self, value: float) -> float:
        """0 for random play, 100 for a human."""
        return 100 * (value - self.random) / (self.human - self.random)


@functools.cache
def score_table(suite: str) -> dict[str, ScoreRange]:
    """atari57: by game, as ROMs are named; dmlab30: by train level."""
    return {
        to_snake_case(row["game"]) if suite == "atari57" else row["train_level"]: ScoreRange(
            float(row["random"]), float(row["human"])
        )
        for row in published_rows(suite)
    }


def table_key(level_name: str) -> str:
    """The name of a level in the tables; its own name if it is in none."""
    if atari := parse_atari_name(level_name):
        return atari[0]
    name = level_name.removeprefix(DMLAB30_FOLDER)
    return {test: train for train, test in train_to_test_levels().items()}.get(name, name)


def level_range(level_name: str) -> ScoreRange | None:
    """None for a level without published scores."""
    return {**score_table("atari57"), **score_table("dmlab30")}.get(table_key(level_name))


def published_returns(level_name: str) -> dict[str, float]:
    """Source -> published return of this level, including a human's and random play's where they are known."""
    key = table_key(level_name)
    found = {row["who"]: float(row["return"]) for row in published_rows("results") if row["level"] == key}
    if known := level_range(level_name):
        found |= {"human": known.human, "random": known.random}
    return found


class SuiteScore(NamedTuple):
    """Over all levels of a suite, or of a list."""

    mean: float
    median: float
    mean_capped: float  # each level at most 100: the DMLab-30 score
    levels: dict[str, float]


def suite_score(suite: str, returns: Mapping[str, float]) -> SuiteScore:
    """From the mean return of each level, under any of its names. ValueError that names the levels that are missing."""
    known = score_table(suite)
    by_key = {table_key(name) for name in returns}
    if strange := [name for name in returns if table_key(name) not in known]:
        raise ValueError(f"{suite}: not a level of it: {', '.join(strange)}")
    if missing := sorted(known.keys() - by_key):
        raise ValueError(f"{suite}: {len(missing)} of {len(known)} levels are missing: {', '.join(missing)}")
    score = mean_over_levels(returns)
    assert score
    return score


def mean_over_levels(returns: Mapping[str, float]) -> SuiteScore | None:
    """Over these levels, by their names in the tables; None if nobody has published scores of one of them."""
    known = {table_key(name): (level_range(name), value) for name, value in returns.items()}
    levels = {name: span.normalised(value) for name, (span, value) in known.items() if span}
    return aggregate(levels) if len(levels) == len(returns) else None


def aggregate(levels: dict[str, float]) -> SuiteScore:
    """Over levels whose normalised scores are known."""
    values = list(levels.values())
    capped = statistics.mean(min(SCORE_CAP, value) for value in values)
    return SuiteScore(statistics.mean(values), statistics.median(values), capped, levels)
