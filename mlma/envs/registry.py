"""Level names -> environments. One suite per file; a suite is a module with the functions of `Suite`.

`--level_name` is one name, several with commas between, or the name of a set. Not here: who plays which of them
(mlma/envs/vector/multi_level.py).
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence
from typing import Protocol

from mlma.core.config import EnvironmentConfig
from mlma.core.types import EnvSpec, VectorEnv
from mlma.envs.level_syntax import train_to_test_levels
from mlma.envs.suites import atari, catch, corridor, dmlab, doom, gym, tmaze
from mlma.envs.vector.multi_level import MultiLevelVectorEnv, merge_specs


class Suite(Protocol):
    """May also have `film(level_name, num_envs, seed, config)`: the games that `make` plays with `evaluation`, made to be seen.

    What it makes, or else what `make` makes, may have `picture(i)`, uint8 [H, W, 3].
    """

    def level_names(self) -> list[str]:
        """The level names it answers to, as a user would type them; it may accept more than it lists."""
        ...

    def env_spec(self, level_name: str, config: EnvironmentConfig) -> EnvSpec | None:
        """What the level looks like, or None if the name is not of this suite; ValueError if it cannot be played here."""
        ...

    def make_env(
        self, level_name: str, num_envs: int, seed: int, config: EnvironmentConfig, evaluation: bool
    ) -> VectorEnv | None:
        """`num_envs` environments with seeds that follow from `seed`, or None if the name is not of this suite.

        `evaluation` plays whole games as they are scored: no return ends before its game does.
        """
        ...


SUITES: dict[str, Suite] = {
    "corridor": corridor, "catch": catch, "tmaze": tmaze, "atari": atari, "doom": doom, "dmlab": dmlab, "gymnasium": gym,
}  # fmt: skip
# What the lists of the papers are called.
LEVEL_SETS = {"atari57": atari.atari57(), "dmlab30": list(train_to_test_levels())}
HELP = "help"


def level_names(level_name: str) -> list[str]:
    """The levels of a run, in order."""
    named = [part.strip() for part in level_name.split(",")]
    found = [level for part in named for level in LEVEL_SETS.get(part, [part])]
    if twice := sorted({level for level in found if found.count(level) > 1}):
        raise ValueError(f"--level_name={level_name}: {', '.join(twice)} twice")
    return found


def suite_of(level_name: str) -> str:
    """The suite of the first level, "" if none lists it."""
    first = level_names(level_name)[0]
    if dmlab.level_script(first, evaluation=False):
        return "dmlab"
    return next((name for name, suite in SUITES.items() if first in suite.level_names()), "")


def env_spec(config: EnvironmentConfig) -> EnvSpec:
    """What the run's levels look like, to one agent."""
    names = level_names(config.level_name)
    specs = {name: _level_spec(name, config) for name in names}
    spec = merge_specs(specs) if len(names) > 1 else specs[names[0]]
    return spec._replace(suite=suite_of(config.level_name))


def _level_spec(level_name: str, config: EnvironmentConfig) -> EnvSpec:
    for suite in SUITES.values():
        if (spec := suite.env_spec(level_name, config)) is not None:
            return spec
    raise _unknown_level(level_name)


def make_env(level_name: str, num_envs: int, seed: int, config: EnvironmentConfig, evaluation: bool = False) -> VectorEnv:
    """Environments of one level."""
    for suite in SUITES.values():
        if (env := suite.make_env(level_name, num_envs, seed, config, evaluation)) is not None:
            return env
    raise _unknown_level(level_name)


def make_for_levels(
    config: EnvironmentConfig, spec: EnvSpec, numbers: Sequence[int], seed: int, evaluation: bool = False
) -> VectorEnv:
    """An environment for each number, of the level of the run that it is the number of; `spec` is the run's."""
    names = level_names(config.level_name)
    if len(names) == 1:
        return make_env(names[0], len(numbers), seed, config, evaluation)
    return MultiLevelVectorEnv(
        spec,
        numbers,
        lambda number, count, first: make_env(names[number], count, seed + first, config, evaluation),
    )


def make_for_video(level_name: str, num_envs: int, seed: int, config: EnvironmentConfig) -> VectorEnv:
    """The same games as with `evaluation`, in pictures where the level has any."""
    for suite in SUITES.values():
        if hasattr(suite, "make_for_video") and (env := suite.make_for_video(level_name, num_envs, seed, config)) is not None:
            return env
    return make_env(level_name, num_envs, seed, config, evaluation=True)


def _unknown_level(level_name: str) -> ValueError:
    known = {*LEVEL_SETS, *(name for suite in SUITES.values() for name in suite.level_names())}
    near = difflib.get_close_matches(level_name, sorted(known), n=4, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return ValueError(f"--level_name={level_name}: no such level{hint}; --level_name={HELP} lists them")


def level_help() -> str:
    """All names, by suite."""
    lines = ["--level_name is one of these, or several with commas between; docs/levels.md says more.", "", "sets:"]
    lines += [f"  {name}: {len(members)} levels, {members[0]}, ..., {members[-1]}" for name, members in LEVEL_SETS.items()]
    wrap = textwrap.TextWrapper(
        110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
    for title, names in _names_by_suite().items():
        lines += ["", f"{title}:", *wrap.wrap(", ".join(names))]
    lines += ["", "any other gymnasium id:", "  module:Id imports a module that registers it"]
    return "\n".join(lines)


def _names_by_suite() -> dict[str, list[str]]:
    lists = {name: suite.level_names() for name, suite in SUITES.items()}
    built_in = [name for suite in ("corridor", "catch", "tmaze") for name in lists[suite]]
    games = [name for name in lists["atari"] if name.startswith("atari_")]
    return {
        "built in": built_in,
        "atari (also <Game>NoFrameskip-v4, and ALE/<Game>-v5 with sticky actions)": games,
        f"VizDoom{doom.missing_package_note()}": lists["doom"],
        f"DeepMind Lab, also dmlab/LEVEL for any other{dmlab.missing_package_note()}": lists["dmlab"],
        "gymnasium": lists["gymnasium"],
    }
