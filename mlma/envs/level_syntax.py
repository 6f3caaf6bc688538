"""Syntax of level names: the game of an Atari name, train and test levels of DMLab-30. Imports no simulator.

Not here: the suites that provide the levels (mlma/envs/registry.py).
"""

from __future__ import annotations

import csv
import functools
import re
from pathlib import Path

PUBLISHED_FOLDER = Path(__file__).parent / "published"
DMLAB30_FOLDER = "contributed/dmlab30/"


def to_snake_case(camel_case: str) -> str:
    """SpaceInvaders -> space_invaders."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", camel_case).lower()


def parse_atari_name(level_name: str) -> tuple[str, float] | None:
    """(game, probability of a sticky action), or None for any other name. Does not check that the game exists."""
    if match := re.fullmatch(r"atari_(\w+)", level_name):
        return match[1], 0.0
    if match := re.fullmatch(r"(\w+?)NoFrameskip-v4", level_name):
        return to_snake_case(match[1]), 0.0
    if match := re.fullmatch(r"ALE/(\w+)-v5", level_name):
        return to_snake_case(match[1]), 0.25
    return None


def published_rows(table: str) -> list[dict[str, str]]:
    """Rows of a table in mlma/envs/published/, such as `atari57`."""
    with (PUBLISHED_FOLDER / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def train_to_test_levels() -> dict[str, str]:
    """DMLab-30: train level -> the level to evaluate on."""
    return {row["train_level"]: row["test_level"] for row in published_rows("dmlab30")}


def atari57_games() -> list[str]:
    """The games of Atari-57 as ROM names."""
    return [to_snake_case(row["game"]) for row in published_rows("atari57")]
