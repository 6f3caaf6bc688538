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
        "level to train on, such as atari_pong, CartPole-v1 or catch; several are separated by commas; allowed are "
        "Atari games (atari_pong and PongNoFrameskip-v4 are the same, ALE/Pong-v5 has sticky actions), VizDoom's "
        "levels such as doom_basic, those of DeepMind Lab, any gymnasium id, the built-in levels catch, corridor and "
        "tmaze, the sets atari57 and dmlab30, and your own environment as module:NAME or ./file.py:NAME; help lists "
        "all names",
    )
    env_args: str = option(
        "",
        'arguments of the environment as a JSON object, such as {"size": 8}: keyword arguments of gymnasium.make, or '
        "of the function or class that level_name names; gymnasium only",
        check=json_object,
    )
    max_env_errors: int = option(
        5,
        "local training ends after this many equal errors of environments, each within a minute of the first reset; 0 "
        "means no limit",
        minimum=0,
        maximum=1_000_000,
    )
    env_threads: int = option(
        1, "threads with which one actor steps its environments; Atari only", minimum=1, maximum=MAX_THREADS
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
        "auto trains with the level's own vector environment, which steps all environments of an actor at once, if "
        "gymnasium has one for it (vector_entry_point); off uses single environments, as evaluation does",
    )
    env_timeout_seconds: float = option(
        300.0,
        "seconds without an answer after which a worker process of environments is replaced",
        minimum=0.1,
        former_names=("env_seconds",),
        maximum=A_WEEK,
    )
    num_action_repeats: int = option(
        0,
        "frames for which each action is repeated (Atari's image is the maximum of the last two); 0 takes the level's"
        " default: 4 for Atari, VizDoom and DeepMind Lab, otherwise 1",
        minimum=0,
        maximum=1000,
    )
    width: int = option(
        0,
        "width of the image; 0 takes the level's default: 84 for Atari, 128 for VizDoom, 96 for DeepMind Lab",
        minimum=0,
        maximum=MAX_PIXELS,
    )
    height: int = option(
        0,
        "height of the image; 0 takes the level's default: 84 for Atari, 72 for VizDoom and DeepMind Lab",
        minimum=0,
        maximum=MAX_PIXELS,
    )
    color_mode: Literal["auto", "grey", "rgb"] = option(
        "auto",
        "color mode of the image; auto takes the level's default: grey for Atari, rgb for the others",
        former_names=("colours",),
    )
    sticky_actions: float = option(
        -1.0,
        "probability that the environment repeats the previous action instead of the chosen one; -1 takes the level's"
        " default: 0.25 for ALE/*-v5, otherwise 0",
        maximum=1,
        minimum=-1,
    )
    action_bounds: Literal["clip", "tanh"] = option(
        "clip",
        "how real-valued actions are brought within the level's bounds: clip cuts them off, tanh squashes them",
    )
    noop_max: int = option(
        30, "maximum number of no-op actions at the start of an episode; Atari only", minimum=0, maximum=10_000
    )
    fire_reset: bool = option(
        False,
        "press FIRE for the agent at the start of an episode and after each lost life; its observations begin after "
        "that, as with the wrappers of OpenAI Baselines; Atari only",
    )
    life_loss_ends_return: bool = option(
        True, "a lost life ends the return that is learned, but not the episode; Atari only, and never with r2d2"
    )
    full_action_space: bool = option(
        False, "use all 18 actions of the console instead of only those that the game uses; Atari only"
    )
    doom_scenarios: str = option("", "folder of VizDoom scenario files, searched before those of installed packages")
    level_cache: str = option(
        "~/.cache/mlma/dmlab",
        "folder of compiled DeepMind Lab maps, shared by all actors of a host; empty disables the cache",
        may_be_empty=True,
    )
    level_cache_gb: float = option(
        10.0,
        "largest size of level_cache in gigabytes; beyond it, the least recently used maps are removed",
        minimum=0.001,
        maximum=1e6,
    )
    map_seeds: int = option(
        1000,
        "number of seeds that training on a DeepMind Lab level draws from; each seed is a map, so a limit lets "
        "compiled maps be used again; 0 means no limit; evaluation has no limit",
        minimum=0,
        maximum=2**31,
    )
    dmlab_path: str = option(
        "",
        "deepmind_lab.so, the package deepmind_lab, or a folder that contains either; needed only if Python does not "
        "find the module by itself",
    )
    dataset_path: str = option(
        "", "folder with the pictures that two of DeepMind Lab's psychlab levels show, 0001.png to 2400.png"
    )
    dmlab_renderer: Literal["software", "hardware"] = option("software", "renderer of DeepMind Lab")
