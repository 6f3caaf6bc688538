"""The flags of levels and their simulators. See mlma/core/config/sections.py."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mlma.core.config.flags import option
from mlma.core.config.json_object import json_object
from mlma.core.config.limits import A_WEEK, MAX_PIXELS, MAX_THREADS


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
    """Environment."""

    level_name: str = option(
        "PongNoFrameskip-v4",
        "level to train on: atari_pong, PongNoFrameskip-v4, ALE/Pong-v5 (sticky actions), doom_basic, a DeepMind Lab "
        "level, any gymnasium id, module:NAME or ./file.py:NAME for your own environment, catch, corridor, tmaze; "
        "several separated by commas; the sets atari57 and dmlab30; help lists all names",
    )
    env_args: str = option(
        "",
        'arguments of the environment as a JSON object, such as {"size": 8}: keyword arguments of gymnasium.make, or '
        "of the function or class that level_name names; gymnasium only",
        check=json_object,
    )
    max_env_errors: int = option(
        5,
        "equal errors of environments, each within a minute of the first reset, after which local training ends; 0 is "
        "never",
        minimum=0,
        maximum=1_000_000,
    )
    env_threads: int = option(
        1, "threads that step the environments of one actor; Atari only", minimum=1, maximum=MAX_THREADS
    )
    env_processes: int = option(
        0,
        "worker processes that step the environments of one actor; 0 is none for gymnasium, one for VizDoom, one per "
        "environment for DeepMind Lab",
        minimum=0,
        maximum=MAX_THREADS,
    )
    vectorized_env: Literal["auto", "off"] = option(
        "auto",
        "auto trains with the level's own vector environment, which steps all environments of an actor at once, where "
        "gymnasium has one (vector_entry_point); off uses single environments, as evaluation does",
    )
    env_timeout_seconds: float = option(
        300.0,
        "seconds without an answer after which an environment process is replaced",
        minimum=0.1,
        former_names=("env_seconds",),
        maximum=A_WEEK,
    )
    num_action_repeats: int = option(
        0,
        "frames for which each action is repeated (Atari takes the maximum of the last two); 0 is the default of the "
        "level: 4, or 1 for gymnasium",
        minimum=0,
        maximum=1000,
    )
    width: int = option(
        0,
        "width of the image; 0 is the default of the level: 84 for Atari, 128 for VizDoom, 96 for DeepMind Lab",
        minimum=0,
        maximum=MAX_PIXELS,
    )
    height: int = option(
        0,
        "height of the image; 0 is the default of the level: 84 for Atari, 72 for VizDoom and DeepMind Lab",
        minimum=0,
        maximum=MAX_PIXELS,
    )
    color_mode: Literal["auto", "grey", "rgb"] = option(
        "auto",
        "color mode of the image; auto is the default of the level: grey for Atari, rgb for the others",
        former_names=("colours",),
    )
    sticky_actions: float = option(
        -1.0,
        "probability that the previous action is repeated instead; -1 is the default of the level: 0.25 for ALE/*-v5,"
        " else 0",
        maximum=1,
        minimum=-1,
    )
    action_bounds: Literal["clip", "tanh"] = option(
        "clip",
        "how the real numbers of an action are brought within the level's bounds: clip cuts them off, tanh squashes "
        "them",
    )
    noop_max: int = option(
        30, "maximum number of no-op actions at the start of an episode; Atari only", minimum=0, maximum=10_000
    )
    fire_reset: bool = option(
        False,
        "press FIRE for the agent at the start of an episode and after each lost life, where its observations start"
        " anew: the protocol of OpenAI Baselines' wrappers; Atari only",
    )
    life_loss_ends_return: bool = option(
        True, "the return that is learned ends when a life is lost; the episode goes on; never with r2d2"
    )
    full_action_space: bool = option(False, "all 18 actions of the console instead of those the game uses; Atari only")
    doom_scenarios: str = option("", "folder of VizDoom scenario files, searched before those of installed packages")
    level_cache: str = option(
        "~/.cache/mlma/dmlab",
        "folder of compiled DeepMind Lab maps, shared by all actors of a host; empty disables the cache",
        may_be_empty=True,
    )
    level_cache_gb: float = option(
        10.0,
        "most gigabytes that --level_cache may hold; maps that were not used for longest are removed",
        minimum=0.001,
        maximum=1e6,
    )
    map_seeds: int = option(
        1000,
        "number of seeds, each of which is a map, that training on a DeepMind Lab level draws episodes from, so that "
        "compiled maps are used again; 0 is no limit; evaluation has none",
        minimum=0,
        maximum=2**31,
    )
    dmlab_path: str = option(
        "", "folder with deepmind_lab.so, or with the package deepmind_lab, if the Python path has no such module"
    )
    dataset_path: str = option(
        "", "folder of the pictures that two of DeepMind Lab's psychlab levels show, 0001.png to 2400.png"
    )
    dmlab_renderer: Literal["software", "hardware"] = option("software", "renderer of DeepMind Lab")
