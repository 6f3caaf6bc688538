"""Syntax of level names: the game of an Atari name, train and test levels of DMLab-30. Imports no simulator.

Not here: the suites that provide the levels (mlma/envs/registry.py).
"""

from __future__ import annotations

import csv
import difflib
import functools
import re
from collections.abc import Iterable
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


def nearest_levels(level_name: str, known_names: Iterable[str], count: int = 4) -> list[str]:
    """The names that a mistyped one may mean, best first; case does not matter.

    A game of Atari without its prefix, or in another spelling such as Pong-v4, is answered with its atari_ level.
    """
    names = sorted(known_names)
    games = {_letters(name.removeprefix("atari_")): name for name in names if name.startswith("atari_")}
    stem = re.sub(r"^ALE/|^atari[_ -]?|(-ram)?(NoFrameskip|Deterministic)?(-v\d+)?$", "", level_name, flags=re.I)
    game = [games[_letters(stem)]] if _letters(stem) in games else []
    by_lower_case: dict[str, list[str]] = {}
    for name in names:
        by_lower_case.setdefault(name.lower(), []).append(name)
    near = difflib.get_close_matches(level_name.lower(), list(by_lower_case), n=count, cutoff=0.5)
    found = dict.fromkeys([*game, *(name for lower in near for name in by_lower_case[lower])])
    return list(found)[:count]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


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
