"""Atari on ale-py's C++ vector environment, with the preprocessing of Mnih et al. 2015 (84x84 grey, max of two, no-ops).

Names: `PongNoFrameskip-v4` and `atari_pong` are the classic game without sticky actions, `ALE/Pong-v5` repeats the last
action with probability 0.25 (Machado et al. 2018). Not here: the stack of frames (the agent's), reward clipping (the
learner's).
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
from ale_py import ALEInterface, AtariVectorEnv, LoggerMode, roms
from gymnasium.vector import AutoresetMode

from mlma.core.config import EnvironmentConfig
from mlma.core.types import ArraySpec, EnvSpec, TimeStep
from mlma.envs.level_syntax import atari57_games, parse_atari_name

SCREEN = (210, 160)
SIZE, ACTION_REPEATS = 84, 4
MAX_EPISODE_FRAMES = 108_000  # half an hour of play, as in the published evaluations


def level_names() -> list[str]:
    games = roms.get_all_rom_ids()
    camel = ["".join(part.capitalize() for part in game.split("_")) for game in games]
    return (
        [f"atari_{game}" for game in games] + [f"{name}NoFrameskip-v4" for name in camel] + [f"ALE/{name}-v5" for name in camel]
    )


def atari57() -> list[str]:
    """The level names of Atari-57."""
    return [f"atari_{game}" for game in atari57_games()]


def env_spec(level_name: str, config: EnvironmentConfig) -> EnvSpec | None:
    if (parsed := _parse_level(level_name)) is None:
        return None
    actions = action_names(parsed[0], config.full_action_space)
    return EnvSpec(_observation_spec(config), len(actions), config.num_action_repeats or ACTION_REPEATS, action_names=actions)


def _observation_spec(config: EnvironmentConfig) -> ArraySpec:
    return ArraySpec(
        (
            config.height or SIZE,
            config.width or SIZE,
            3 if config.color_mode == "rgb" else 1,
        ),
        "uint8",
    )


@functools.cache
def action_names(game: str, full: bool) -> tuple[str, ...]:
    ALEInterface.setLoggerMode(LoggerMode.Error)
    console = ALEInterface()
    console.loadROM(roms.get_rom_path(game))
    return tuple(action.name for action in (console.getLegalActionSet() if full else console.getMinimalActionSet()))


def make_env(level_name: str, num_envs: int, seed: int, config: EnvironmentConfig, evaluation: bool) -> Atari | None:
    if (parsed := _parse_level(level_name)) is None:
        return None
    return Atari(*parsed, num_envs, seed, config, life_loss=config.life_loss_ends_return and not evaluation)


def make_for_video(level_name: str, num_envs: int, seed: int, config: EnvironmentConfig) -> Atari | None:
    """The same games as `make` with `evaluation`, in the console's own size and colours."""
    if (parsed := _parse_level(level_name)) is None:
        return None
    height, width = SCREEN
    config = replace(config, height=height, width=width, color_mode="rgb")
    return Atari(*parsed, num_envs, seed, config, life_loss=False)


def _parse_level(level_name: str) -> tuple[str, float] | None:
    """(ROM name, probability of a sticky action), or None if there is no such game."""
    parsed = parse_atari_name(level_name)
    return parsed if parsed and parsed[0] in roms.get_all_rom_ids() else None


class Atari:
    """See mlma.core.types.VectorEnv. Autoreset is ale-py's NEXT_STEP: the step after the end of a game is its restart."""

    def __init__(self, game: str, sticky: float, num_envs: int, seed: int, config: EnvironmentConfig, life_loss: bool) -> None:
        self.num_envs, self._seed = num_envs, seed
        actions = action_names(game, config.full_action_space)
        self.spec = EnvSpec(
            _observation_spec(config),
            len(actions),
            config.num_action_repeats or ACTION_REPEATS,
            action_names=actions,
        )
        if config.sticky_actions >= 0:
            sticky = config.sticky_actions
        self._env = AtariVectorEnv(
            game,
            num_envs,
            num_threads=config.env_threads,
            max_num_frames_per_episode=MAX_EPISODE_FRAMES,
            repeat_action_probability=sticky,
            full_action_space=config.full_action_space,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=self.spec.observation.shape[0],
            img_width=self.spec.observation.shape[1],
            grayscale=self.spec.observation.shape[2] == 1,
            stack_num=1,
            frameskip=self.spec.action_repeats,
            noop_max=config.noop_max,
            life_loss_info=life_loss,  # never episodic_life, which restarts the whole game at each life
            reward_clipping=False,
        )
        assert self._env.single_action_space.n == len(actions)
        # Of steps at which no game ends: nearly all, in which Python's share is what the next inference waits for.
        self._no_return, self._no_frames = np.full(num_envs, np.nan, np.float32), np.zeros(num_envs, np.int32)

    def reset(self) -> TimeStep:
        observation, _ = self._env.reset(seed=self._seed)
        self._game_over = np.zeros(self.num_envs, bool)
        self._return = np.zeros(self.num_envs, np.float32)
        self._steps = np.zeros(self.num_envs, np.int32)
        zeros = np.zeros(self.num_envs, np.float32)
        return self._timestep(observation, zeros, zeros + 1, np.ones(self.num_envs, bool), np.zeros(self.num_envs, np.int32))

    def step(self, action: Any) -> TimeStep:
        action = np.asarray(action, np.int32)
        observation, reward, terminated, truncated, info = self._env.step(action)
        first = self._game_over
        self._return += reward
        self._steps += 1
        # With life_loss_info `terminated` is also set at a life loss; only without lives left is the game over.
        self._game_over = (terminated & (info["lives"] == 0)) | truncated
        if first.any():
            self._return[first], self._steps[first] = 0, 0
            action = np.where(first, 0, action).astype(np.int32)
        return self._timestep(observation, reward.astype(np.float32), (~terminated).astype(np.float32), first, action)

    def render(self, i: int) -> Any:
        """uint8 [H, W, 3]."""
        return self._last[i]

    def _timestep(self, observation: Any, reward: Any, discount: Any, first: Any, last_action: Any) -> TimeStep:
        self._last = observation.reshape(self.num_envs, *self.spec.observation.shape)  # [E, 1, H, W(, 3)] -> [E, H, W, C]
        episode_return, episode_frames = self._no_return, self._no_frames
        if (over := self._game_over).any():
            episode_return = np.where(over, self._return, episode_return)
            episode_frames = np.where(over, self._steps * self.spec.action_repeats, episode_frames).astype(np.int32)
        return TimeStep(self._last, reward, discount, first, last_action, episode_return, episode_frames)

    def close(self) -> None:
        self._env.close()
