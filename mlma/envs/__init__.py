"""Level names -> environments. One suite per file; a suite is a module with the two functions of `Suite`."""

from __future__ import annotations

import difflib
from typing import Protocol

from mlma.config import Config
from mlma.envs import atari, catch, corridor, gym, tmaze
from mlma.types import EnvSpec, VectorEnv


class Suite(Protocol):
    """May also have `film(level_name, num_envs, seed, config)`: the games that `make` plays with `evaluation`, made to be seen.

    What it makes, or else what `make` makes, may have `picture(i)`, uint8 [H, W, 3], and `action_names`.
    """

    def names(self) -> list[str]:
        """The level names it answers to, as a user would type them; it may accept more than it lists."""
        ...

    def make(self, level_name: str, num_envs: int, seed: int, config: Config, evaluation: bool) -> VectorEnv | None:
        """`num_envs` environments with seeds that follow from `seed`, or None if the name is not of this suite.

        `evaluation` plays whole games as they are scored: no return ends before its game does.
        """
        ...


SUITES: list[Suite] = [corridor, catch, tmaze, atari, gym]


def film(level_name: str, num_envs: int, seed: int, config: Config) -> VectorEnv:
    """The same games as with `evaluation`, in pictures where the level has any."""
    for suite in SUITES:
        if hasattr(suite, "film") and (env := suite.film(level_name, num_envs, seed, config)) is not None:
            return env
    return make(level_name, num_envs, seed, config, evaluation=True)


def make(level_name: str, num_envs: int, seed: int, config: Config, evaluation: bool = False) -> VectorEnv:
    for suite in SUITES:
        env = suite.make(level_name, num_envs, seed, config, evaluation)
        if env is not None:
            return env
    known = sorted({name for suite in SUITES for name in suite.names()})
    near = difflib.get_close_matches(level_name, known, n=4, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise ValueError(
        f"--level_name={level_name}: no such level{hint} (corridor, catch, tmaze, atari_<game>, <Game>NoFrameskip-v4, "
        "ALE/<Game>-v5, or any registered gymnasium id with discrete actions)"
    )


def spec_of(config: Config) -> EnvSpec:
    """What the run's level looks like; makes one environment and closes it again."""
    env = make(config.level_name, 1, 0, config)
    env.close()
    return env.spec
