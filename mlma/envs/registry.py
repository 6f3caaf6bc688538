"""Maps level names to environments. Each suite is one module in mlma/envs/suites/ with the functions of `Suite`.

`--level_name` is one name, several separated by commas, or the name of a set. Not here: several levels in one vector
environment (mlma/envs/vector/multi_level.py), which environments get which level (mlma/roles/actor.py).
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Sequence
from typing import Any, Protocol

from mlma.core.config import EnvironmentConfig
from mlma.core.config.flags import HELP
from mlma.core.types import EnvSpec, VectorEnv
from mlma.envs.level_syntax import nearest_levels, train_to_test_levels
from mlma.envs.raw_level import RawLevel
from mlma.envs.suites import atari, dmlab, doom
from mlma.envs.vector.multi_level import MultiLevelVectorEnv, merge_specs


class Suite(Protocol):
    """The functions of a suite module. All but `level_names` return None for a name that belongs to another suite.

    Optional: `make_for_video(level_name, num_envs, seed, settings)` makes environments that run the same episodes as
    `make_env` with `evaluation`, but can render images for videos. An environment that can render has `render(i)`: the
    image of environment i, uint8 [H, W, 3], or None. `make_unrepeatable(level_name, num_envs, seed, settings)` makes
    environments for training that cannot be repeated anyway: faster than `make_env`, with a seed or without.
    `takes_arguments(level_name)`: whether --env_args is for this level. `needs_trial(level_name)`: whether its code may
    fail here, so that `make_single` is tried in a process of its own first (mlma/envs/trial.py). `OWN_TEMP_FOLDER`:
    whether a process with such an environment needs a folder of its own for temporary files. `HAS_WORKERS`: whether its
    environments are always in processes of their own. `check_settings(level_name, settings)`: ValueError for what can
    be said without opening anything. `raw_level(level_name, settings)`: what an environment of one of its levels gives
    and takes by itself.
    """

    def level_names(self) -> list[str]:
        """The names of its levels as a user types them. The suite may accept more names than it lists."""
        ...

    def env_spec(self, level_name: str, settings: EnvironmentConfig) -> EnvSpec | None:
        """The level's spec. ValueError if the level cannot run here, e.g. because a package is missing."""
        ...

    def make_env(
        self, level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig, evaluation: bool
    ) -> VectorEnv | None:
        """`num_envs` environments whose seeds derive from `seed`.

        With `evaluation`, episodes run as they are scored in papers: no return ends before its episode does.
        """
        ...


SUITE_MODULES = {
    "corridor": "mlma.envs.suites.corridor",
    "catch": "mlma.envs.suites.catch",
    "tmaze": "mlma.envs.suites.tmaze",
    "atari": "mlma.envs.suites.atari",
    "doom": "mlma.envs.suites.doom",
    "dmlab": "mlma.envs.suites.dmlab",
    "gymnasium": "mlma.envs.suites.gym",
}
SUITES: dict[str, Any] = {name: importlib.import_module(module) for name, module in SUITE_MODULES.items()}  # Suite each
LEVEL_SETS = {"atari57": atari.atari57(), "dmlab30": list(train_to_test_levels())}


def level_names(level_name: str) -> list[str]:
    """The levels of a run in order, with sets expanded. ValueError if a level occurs twice."""
    names = [part.strip() for part in level_name.split(",")]
    levels = [level for name in names for level in LEVEL_SETS.get(name, [name])]
    if duplicates := sorted({level for level in levels if levels.count(level) > 1}):
        raise ValueError(f"--level_name={level_name}: {', '.join(duplicates)} twice")
    return levels


def suite_of(level_name: str) -> str:
    """The suite of the first level, or "" if no suite lists it."""
    first = level_names(level_name)[0]
    if dmlab.level_script(first, evaluation=False):
        return "dmlab"
    return next((name for name, suite in SUITES.items() if first in suite.level_names()), "")


def env_spec(settings: EnvironmentConfig) -> EnvSpec:
    """The spec of the run's level, or merged over its levels. ValueError if one is unknown or cannot run here."""
    names = level_names(settings.level_name)
    specs = {name: _level_spec(name, settings) for name in names}
    spec = merge_specs(specs) if len(names) > 1 else specs[names[0]]
    return spec._replace(suite=suite_of(settings.level_name))


def _level_spec(level_name: str, settings: EnvironmentConfig) -> EnvSpec:
    for suite in SUITES.values():
        if (spec := suite.env_spec(level_name, settings)) is not None:
            if settings.env_args and not hasattr(suite, "takes_arguments"):
                raise ValueError(f"--env_args={settings.env_args}: {level_name} takes no arguments")
            return spec
    raise _unknown_level(level_name)


def make_env(
    level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig, evaluation: bool = False
) -> VectorEnv:
    """`num_envs` environments of one level; see `Suite.make_env`. ValueError if no suite has the level."""
    for suite in SUITES.values():
        if (env := suite.make_env(level_name, num_envs, seed, settings, evaluation)) is not None:
            return env
    raise _unknown_level(level_name)


def make_for_levels(
    settings: EnvironmentConfig,
    spec: EnvSpec,
    levels: Sequence[int],
    seed: int,
    evaluation: bool = False,
    repeatable: bool = True,
) -> VectorEnv:
    """One environment per entry of `levels`, an index into the levels of the run; `spec` is the spec of the run.

    Training that is not `repeatable`, since it does not wait for all its actors, may start without seeds.
    """
    names = level_names(settings.level_name)

    def make(level: int, count: int, offset: int) -> VectorEnv:
        env = None if repeatable else _make_special("make_unrepeatable", names[level], count, seed + offset, settings)
        return env or make_env(names[level], count, seed + offset, settings, evaluation)

    return make(0, len(levels), 0) if len(names) == 1 else MultiLevelVectorEnv(spec, levels, make)


def make_for_video(level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig) -> VectorEnv:
    """Environments that run the same episodes as `make_env` with `evaluation`, and render images if the level can."""
    env = _make_special("make_for_video", level_name, num_envs, seed, settings)
    return env or make_env(level_name, num_envs, seed, settings, evaluation=True)


def _make_special(how: str, *args: Any) -> VectorEnv | None:
    """The environments that one of the optional functions of a suite makes, if the level's suite has it."""
    made = (getattr(suite, how)(*args) for suite in SUITES.values() if hasattr(suite, how))
    return next((env for env in made if env is not None), None)


def raw_level(level_name: str, settings: EnvironmentConfig) -> RawLevel | None:
    """What a level's own environment gives and takes, without anything of ours; None if its suite has no such thing."""
    suite = next(each for each in SUITES.values() if each.env_spec(level_name, settings) is not None)
    return suite.raw_level(level_name, settings) if hasattr(suite, "raw_level") else None


def _unknown_level(level_name: str) -> ValueError:
    known_names = {*LEVEL_SETS, *(name for suite in SUITES.values() for name in suite.level_names())}
    nearest = nearest_levels(level_name, known_names)
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    return ValueError(f"--level_name={level_name}: no such level{hint}; --level_name={HELP} lists them")


def level_help() -> str:
    """The text of --level_name=help: all names by suite."""
    lines = ["--level_name is one of these, or several separated by commas; see docs/guides/levels.md.", "", "sets:"]
    lines += [
        f"  {name}: {len(members)} levels, {members[0]}, ..., {members[-1]}" for name, members in LEVEL_SETS.items()
    ]
    wrap = textwrap.TextWrapper(
        110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
    for title, names in _names_by_suite().items():
        lines += ["", f"{title}:", *wrap.wrap(", ".join(names))]
    lines += ["", "any other gymnasium environment, with arguments by --env_args:"]
    lines += ["  module:Id imports a module that registers it", "  module:NAME makes it with a class or a function"]
    lines += ["  ./file.py:NAME is the same for a file"]
    return "\n".join(lines)


def _names_by_suite() -> dict[str, list[str]]:
    names = {suite_name: suite.level_names() for suite_name, suite in SUITES.items()}
    built_in = [name for suite in ("corridor", "catch", "tmaze") for name in names[suite]]
    atari_names = [name for name in names["atari"] if name.startswith("atari_")]
    return {
        "built in": built_in,
        "atari (also <Game>NoFrameskip-v4, and ALE/<Game>-v5 with sticky actions)": atari_names,
        f"VizDoom{doom.missing_package_note()}": names["doom"],
        f"DeepMind Lab, also dmlab/LEVEL for any other{dmlab.missing_package_note()}": names["dmlab"],
        "gymnasium": names["gymnasium"],
    }
