"""Human-normalised scores, 100 (return - random) / (human - random), of levels and suites.

The tables in mlma/envs/published/ come from the papers: Atari-57 from Wang et al. 2016 (arXiv 1511.06581), DMLab-30
from the code of the IMPALA paper (arXiv 1802.01561), which maps train levels to test levels. Imports no simulator. Not
here: evaluation (mlma/evaluation/evaluation.py).
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

SCORE_CAP = 100.0  # of a level in a capped mean


class ScoreRange(NamedTuple):
    """Mean returns of a random policy and of a human on one level."""

    random: float
    human: float

    def normalised(self, mean_return: float) -> float:
        """The human-normalised score: 0 for the random policy, 100 for the human."""
        return 100 * (mean_return - self.random) / (self.human - self.random)


@functools.cache
def score_table(suite: str) -> dict[str, ScoreRange]:
    """Score ranges of a suite. Keys are ROM names for `atari57`, train levels for `dmlab30`."""
    return {
        to_snake_case(row["game"]) if suite == "atari57" else row["train_level"]: ScoreRange(
            float(row["random"]), float(row["human"])
        )
        for row in published_rows(suite)
    }


def table_key(level_name: str) -> str:
    """The key of a level in the tables; unchanged if no table has it."""
    if atari := parse_atari_name(level_name):
        return atari[0]
    name = level_name.removeprefix(DMLAB30_FOLDER)
    return {test: train for train, test in train_to_test_levels().items()}.get(name, name)


def level_range(level_name: str) -> ScoreRange | None:
    """The score range of a level under any of its names, or None if no scores are published."""
    return {**score_table("atari57"), **score_table("dmlab30")}.get(table_key(level_name))


def reference_returns(level_name: str) -> dict[str, float]:
    """Label -> return on this level that no training is behind: the best that is possible, `human` and `random`.

    What algorithms reached has frames and a protocol: mlma/envs/published_curves.py.
    """
    key = table_key(level_name)
    rows = [row for row in published_rows("results") if row["level"] == key and not row["protocol"]]
    returns = {row["label"]: float(row["return"]) for row in rows}
    if score_range := level_range(level_name):
        returns |= {"human": score_range.human, "random": score_range.random}
    return returns


class SuiteScore(NamedTuple):
    """Human-normalised scores over several levels."""

    mean: float
    median: float
    mean_capped: float  # with each level capped at SCORE_CAP: the DMLab-30 score
    levels: dict[str, float]  # by table key


def suite_score(suite: str, returns: Mapping[str, float]) -> SuiteScore:
    """The score of a whole suite from mean returns by level name. ValueError that lists missing or foreign levels."""
    table = score_table(suite)
    keys = {table_key(name) for name in returns}
    if foreign := [name for name in returns if table_key(name) not in table]:
        raise ValueError(f"{suite}: has no level {', '.join(foreign)}")
    if missing := sorted(table.keys() - keys):
        raise ValueError(f"{suite}: {len(missing)} of {len(table)} levels are missing: {', '.join(missing)}")
    score = mean_over_levels(returns)
    assert score
    return score


def mean_over_levels(returns: Mapping[str, float]) -> SuiteScore | None:
    """The score over any levels from mean returns by level name; None if one of them has no published scores."""
    ranges = {table_key(name): (level_range(name), mean_return) for name, mean_return in returns.items()}
    scores = {key: score_range.normalised(value) for key, (score_range, value) in ranges.items() if score_range}
    return aggregate(scores) if len(scores) == len(returns) else None


def aggregate(scores: dict[str, float]) -> SuiteScore:
    """Mean, median and capped mean of human-normalised scores by table key."""
    values = list(scores.values())
    capped = statistics.mean(min(SCORE_CAP, value) for value in values)
    return SuiteScore(statistics.mean(values), statistics.median(values), capped, scores)
