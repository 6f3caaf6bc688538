"""Level names -> environments. One suite per file; a suite is a module with the functions of `Suite`.

`--level_name` is one name, several with commas between, or the name of a set. Not here: who plays which of them
(mlma/envs/dealt.py).
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence
from typing import Protocol

from mlma.config import Config
from mlma.envs import atari, catch, corridor, dmlab, doom, gym, tmaze
from mlma.envs.dealt import Dealt, joined
from mlma.types import EnvSpec, VectorEnv


class Suite(Protocol):
    """May also have `film(level_name, num_envs, seed, config)`: the games that `make` plays with `evaluation`, made to be seen.

    What it makes, or else what `make` makes, may have `picture(i)`, uint8 [H, W, 3].
    """

    def names(self) -> list[str]:
        """The level names it answers to, as a user would type them; it may accept more than it lists."""
        ...

    def spec_of(self, level_name: str, config: Config) -> EnvSpec | None:
        """What the level looks like, or None if the name is not of this suite; ValueError if it cannot be played here."""
        ...

    def make(self, level_name: str, num_envs: int, seed: int, config: Config, evaluation: bool) -> VectorEnv | None:
        """`num_envs` environments with seeds that follow from `seed`, or None if the name is not of this suite.

        `evaluation` plays whole games as they are scored: no return ends before its game does.
        """
        ...


SUITES: dict[str, Suite] = {
    "corridor": corridor, "catch": catch, "tmaze": tmaze, "atari": atari, "doom": doom, "dmlab": dmlab, "gymnasium": gym,
}  # fmt: skip
# What the lists of the papers are called.
SETS = {"atari57": atari.atari57(), "dmlab30": list(dmlab.counterparts())}
HELP = "help"


def levels(level_name: str) -> list[str]:
    """The levels of a run, in order."""
    named = [part.strip() for part in level_name.split(",")]
    found = [level for part in named for level in SETS.get(part, [part])]
    if twice := sorted({level for level in found if found.count(level) > 1}):
        raise ValueError(f"--level_name={level_name}: {', '.join(twice)} twice")
    return found


def suite_of(level_name: str) -> str:
    """The suite of the first level, "" if none lists it."""
    first = levels(level_name)[0]
    if dmlab.script(first, evaluation=False):
        return "dmlab"
    return next((name for name, suite in SUITES.items() if first in suite.names()), "")


def spec_of(config: Config) -> EnvSpec:
    """What the run's levels look like, to one agent."""
    names = levels(config.level_name)
    specs = {name: _spec_of_level(name, config) for name in names}
    return joined(specs) if len(names) > 1 else specs[names[0]]


def _spec_of_level(level_name: str, config: Config) -> EnvSpec:
    for suite in SUITES.values():
        if (spec := suite.spec_of(level_name, config)) is not None:
            return spec
    raise _no_such_level(level_name)


def make(level_name: str, num_envs: int, seed: int, config: Config, evaluation: bool = False) -> VectorEnv:
    """Environments of one level."""
    for suite in SUITES.values():
        if (env := suite.make(level_name, num_envs, seed, config, evaluation)) is not None:
            return env
    raise _no_such_level(level_name)


def deal(config: Config, spec: EnvSpec, numbers: Sequence[int], seed: int, evaluation: bool = False) -> VectorEnv:
    """An environment for each number, of the level of the run that it is the number of; `spec` is the run's."""
    names = levels(config.level_name)
    if len(names) == 1:
        return make(names[0], len(numbers), seed, config, evaluation)
    return Dealt(
        spec,
        numbers,
        lambda number, count, first: make(names[number], count, seed + first, config, evaluation),
    )


def film(level_name: str, num_envs: int, seed: int, config: Config) -> VectorEnv:
    """The same games as with `evaluation`, in pictures where the level has any."""
    for suite in SUITES.values():
        if hasattr(suite, "film") and (env := suite.film(level_name, num_envs, seed, config)) is not None:
            return env
    return make(level_name, num_envs, seed, config, evaluation=True)


def _no_such_level(level_name: str) -> ValueError:
    known = {*SETS, *(name for suite in SUITES.values() for name in suite.names())}
    near = difflib.get_close_matches(level_name, sorted(known), n=4, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return ValueError(f"--level_name={level_name}: no such level{hint}; --level_name={HELP} lists them")


def help_text() -> str:
    """All names, by suite."""
    lines = ["--level_name is one of these, or several with commas between; docs/levels.md says more.", "", "sets:"]
    lines += [f"  {name}: {len(members)} levels, {members[0]}, ..., {members[-1]}" for name, members in SETS.items()]
    wrap = textwrap.TextWrapper(
        110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
    for title, names in _listed().items():
        lines += ["", f"{title}:", *wrap.wrap(", ".join(names))]
    lines += ["", "any other gymnasium id:", "  module:Id imports a module that registers it"]
    return "\n".join(lines)


def _listed() -> dict[str, list[str]]:
    lists = {name: suite.names() for name, suite in SUITES.items()}
    built_in = [name for suite in ("corridor", "catch", "tmaze") for name in lists[suite]]
    games = [name for name in lists["atari"] if name.startswith("atari_")]
    return {
        "built in": built_in,
        "atari (also <Game>NoFrameskip-v4, and ALE/<Game>-v5 with sticky actions)": games,
        f"VizDoom{doom.absent()}": lists["doom"],
        f"DeepMind Lab, also dmlab/LEVEL for any other{dmlab.absent()}": lists["dmlab"],
        "gymnasium": lists["gymnasium"],
    }
