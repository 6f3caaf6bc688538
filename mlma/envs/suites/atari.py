"""Atari with ale-py's C++ vector environment and the preprocessing of Mnih et al. 2015.

Images are 84x84 grey, the maximum of the last two frames; episodes start with up to 30 no-ops. `PongNoFrameskip-v4` and
`atari_pong` have no sticky actions; `ALE/Pong-v5` repeats the previous action with probability 0.25 (Machado et al.
2018, arXiv 1709.06009). Not here: frame stacking (agents/networks/frame_stack.py), reward clipping
(agents/reward_clipping.py).
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

SCREEN = (210, 160)  # height and width of the console
SIZE, ACTION_REPEATS = 84, 4
MAX_EPISODE_FRAMES = 108_000  # half an hour, as in published evaluations


def level_names() -> list[str]:
    """See mlma.envs.registry.Suite."""
    games = roms.get_all_rom_ids()
    gym_names = ["".join(part.capitalize() for part in game.split("_")) for game in games]
    short = [f"atari_{game}" for game in games]
    return short + [f"{name}NoFrameskip-v4" for name in gym_names] + [f"ALE/{name}-v5" for name in gym_names]


def atari57() -> list[str]:
    """The level names of Atari-57."""
    return [f"atari_{game}" for game in atari57_games()]


def env_spec(level_name: str, settings: EnvironmentConfig) -> EnvSpec | None:
    """See mlma.envs.registry.Suite."""
    if (parsed := _parse_level(level_name)) is None:
        return None
    actions = action_names(parsed[0], settings.full_action_space)
    return EnvSpec(
        _observation_spec(settings), len(actions), settings.num_action_repeats or ACTION_REPEATS, action_names=actions
    )


def _observation_spec(settings: EnvironmentConfig) -> ArraySpec:
    channels = 3 if settings.color_mode == "rgb" else 1
    return ArraySpec((settings.height or SIZE, settings.width or SIZE, channels), "uint8")


@functools.cache
def action_names(game: str, full: bool) -> tuple[str, ...]:
    """The actions of a game: all 18 of the console if `full`, else those the game uses."""
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.loadROM(roms.get_rom_path(game))
    return tuple(action.name for action in (ale.getLegalActionSet() if full else ale.getMinimalActionSet()))


def make_env(level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig, evaluation: bool) -> Atari | None:
    """See mlma.envs.registry.Suite."""
    if (parsed := _parse_level(level_name)) is None:
        return None
    return Atari(*parsed, num_envs, seed, settings, life_loss=settings.life_loss_ends_return and not evaluation)


def make_unrepeatable(level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig) -> Atari | None:
    """See mlma.envs.registry.Suite. Seeding loads each game a second time, which takes half of an actor's start.

    Without a seed, no-ops are drawn from the system's own random numbers, but sticky actions from the time in seconds,
    so that the environments of an actor would repeat the same ones.
    """
    if (parsed := _parse_level(level_name)) is None:
        return None
    return Atari(*parsed, num_envs, seed, settings, life_loss=settings.life_loss_ends_return, repeatable=False)


def make_for_video(level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig) -> Atari | None:
    """Same episodes as `make_env` with `evaluation`, in the resolution and colors of the console."""
    if (parsed := _parse_level(level_name)) is None:
        return None
    height, width = SCREEN
    settings = replace(settings, height=height, width=width, color_mode="rgb")
    return Atari(*parsed, num_envs, seed, settings, life_loss=False)


def _parse_level(level_name: str) -> tuple[str, float] | None:
    """(ROM name, probability of a sticky action), or None if ale-py has no such game."""
    parsed = parse_atari_name(level_name)
    return parsed if parsed and parsed[0] in roms.get_all_rom_ids() else None


class Atari:
    """See mlma.core.types.VectorEnv. Resets as ale-py's NEXT_STEP: the step after an episode's end restarts it."""

    def __init__(
        self,
        game: str,
        sticky: float,
        num_envs: int,
        seed: int,
        settings: EnvironmentConfig,
        life_loss: bool,
        repeatable: bool = True,
    ) -> None:
        self.num_envs = num_envs
        actions = action_names(game, settings.full_action_space)
        self.spec = EnvSpec(
            _observation_spec(settings),
            len(actions),
            settings.num_action_repeats or ACTION_REPEATS,
            action_names=actions,
        )
        if settings.sticky_actions >= 0:
            sticky = settings.sticky_actions
        self._seed = seed if repeatable or sticky else None
        self._env = AtariVectorEnv(
            game,
            num_envs,
            num_threads=settings.env_threads,
            max_num_frames_per_episode=MAX_EPISODE_FRAMES,
            repeat_action_probability=sticky,
            full_action_space=settings.full_action_space,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=self.spec.observation.shape[0],
            img_width=self.spec.observation.shape[1],
            grayscale=self.spec.observation.shape[2] == 1,
            stack_num=1,
            frameskip=self.spec.action_repeats,
            noop_max=settings.noop_max,
            # `terminated` is the end of the game alone: the emulator's word for it, since some games keep their lives.
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=False,  # which presses FIRE before the no-ops, and no-ops cost lives
        )
        self._life_loss = life_loss
        # As the wrappers of OpenAI Baselines: after the no-ops of a reset and after each lost life.
        self._fire = actions.index("FIRE") if settings.fire_reset and "FIRE" in actions else None
        assert self._env.single_action_space.n == len(actions)
        # For steps in which no episode ends: nearly all. Reused, since the next inference waits for this Python code.
        self._no_return, self._no_frames = np.full(num_envs, np.nan, np.float32), np.zeros(num_envs, np.int32)

    def reset(self) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        observation, info = self._env.reset(seed=self._seed)
        self._lives = info["lives"]
        self._episode_over = np.zeros(self.num_envs, bool)
        self._presses_fire = np.full(self.num_envs, self._fire is not None)
        self._return = np.zeros(self.num_envs, np.float32)
        self._steps = np.zeros(self.num_envs, np.int32)
        zeros = np.zeros(self.num_envs, np.float32)
        return self._timestep(
            observation, zeros, zeros + 1, np.ones(self.num_envs, bool), np.zeros(self.num_envs, np.int32)
        )

    def step(self, action: Any) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        action = np.asarray(action, np.int32)
        fired = self._presses_fire  # instead of the action: the agent begins after this step
        if fired.any():
            action = action.copy()
            action[fired] = self._fire
        observation, reward, terminated, truncated, info = self._env.step(action)
        first = self._episode_over
        self._return += reward
        self._steps += 1
        self._episode_over = terminated | truncated
        return_over = terminated
        life_lost = (info["lives"] < self._lives) & ~first
        self._lives = info["lives"]
        if self._life_loss:
            return_over = terminated | life_lost
        if self._fire is not None:
            self._presses_fire = first | (life_lost & ~self._episode_over)
        if first.any():
            self._return[first], self._steps[first] = 0, 0
            action = np.where(first, 0, action).astype(np.int32)
        return self._timestep(
            observation, reward.astype(np.float32), (~return_over).astype(np.float32), first | fired, action
        )

    def render(self, i: int) -> Any:
        """The last observation of environment i, uint8 [H, W, C]."""
        return self._observation[i]

    def _timestep(self, observation: Any, reward: Any, discount: Any, first: Any, last_action: Any) -> TimeStep:
        # [E, 1, H, W(, 3)] -> [E, H, W, C]
        self._observation = observation.reshape(self.num_envs, *self.spec.observation.shape)
        episode_return, episode_frames = self._no_return, self._no_frames
        if (over := self._episode_over).any():
            episode_return = np.where(over, self._return, episode_return)
            episode_frames = np.where(over, self._steps * self.spec.action_repeats, episode_frames).astype(np.int32)
        return TimeStep(self._observation, reward, discount, first, last_action, episode_return, episode_frames)

    def close(self) -> None:
        """Ends the threads of ale-py."""
        self._env.close()
