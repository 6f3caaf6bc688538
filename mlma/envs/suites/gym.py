"""Any gymnasium environment, by its id or from a module or file of the user.

Not here: how names become environments (mlma/envs/own_levels.py), supported observation and action spaces
(mlma/envs/spaces.py), stepping one after the other (mlma/envs/vector/sequential.py) or in worker processes
(mlma/envs/vector/multiprocess.py).
"""

from __future__ import annotations

from typing import Any

import cv2
import gymnasium
import numpy as np

from mlma.core.config import EnvironmentConfig
from mlma.core.types import ArraySpec, EnvSpec, VectorEnv
from mlma.envs import own_levels
from mlma.envs.action_spaces import make_action_converter
from mlma.envs.failures import WrongResultError
from mlma.envs.raw_level import RawLevel
from mlma.envs.spaces import ObservationConverter, ObservationParts
from mlma.envs.vector import native
from mlma.envs.vector.multiprocess import SubprocessVectorEnv
from mlma.envs.vector.sequential import SingleEnv, SyncVectorEnv
from mlma.utils.user_text import shown


def level_names() -> list[str]:
    """See mlma.envs.registry.Suite."""
    return [name for name in gymnasium.registry if not own_levels.is_raw_atari(name)]


def takes_arguments(level_name: str) -> bool:
    """See mlma.envs.registry.Suite."""
    return True


def needs_trial(level_name: str) -> bool:
    """See mlma.envs.registry.Suite."""
    return own_levels.is_foreign(level_name)


def make_env(
    level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig, evaluation: bool
) -> VectorEnv | None:
    """See mlma.envs.registry.Suite."""
    if not _is_registered(level_name):
        return None
    sticky = max(0.0, settings.sticky_actions)
    if settings.env_processes > 0:
        spec = env_spec(level_name, settings)
        assert spec
        return SubprocessVectorEnv(
            __name__, level_name, spec, num_envs, settings.env_processes, seed, settings, evaluation, sticky
        )
    if not evaluation and not sticky and (env := _make_native(level_name, num_envs, seed, settings)):
        return env
    return SyncVectorEnv([make_single(level_name, settings, evaluation) for _ in range(num_envs)], seed, sticky)


def _make_native(level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig) -> VectorEnv | None:
    """The level's own vector environment; None if it has none, or none that can be used with these settings."""
    if settings.vectorized_env == "off" or settings.num_action_repeats > 1:
        return None
    if (env := own_levels.open_vector_env(level_name, settings.env_args, num_envs)) is None:
        return None
    single = make_single(level_name, settings, evaluation=False)
    single.close()
    if native.is_supported(env) and len(single.spec.observation.shape) == 1:
        return native.NativeVectorEnv(env, single.spec, single.actions, seed, level_name)
    env.close()
    return None


def env_spec(level_name: str, settings: EnvironmentConfig) -> EnvSpec | None:
    """See mlma.envs.registry.Suite. Makes an environment to read its spaces."""
    if not _is_registered(level_name):
        return None
    if own_levels.is_raw_atari(level_name):
        own_levels.print_raw_atari_note(level_name)
    env = make_single(level_name, settings, evaluation=False)
    env.close()
    return env.spec


def make_for_video(level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig) -> VectorEnv | None:
    """Same episodes as `make_env`, with rendering; None if the environment cannot render."""
    if not _is_registered(level_name):
        return None
    env = None
    try:
        envs: list[SingleEnv] = [GymSingle(level_name, settings, render=True) for _ in range(num_envs)]
        env = SyncVectorEnv(envs, seed, max(0.0, settings.sticky_actions))
        env.reset()
        env.render(0)
    except Exception:  # one that takes no render mode, or cannot render, or has no display
        if env is not None:
            env.close()
        return None
    return env


def raw_level(level_name: str, settings: EnvironmentConfig) -> RawLevel:
    """See mlma.envs.registry.Suite. Makes an environment to read its spaces."""
    single = make_single(level_name, settings, evaluation=True)
    single.close()
    return RawLevel(single._env.observation_space, single._parts, single.actions.convert)


def make_single(level_name: str, settings: EnvironmentConfig, evaluation: bool) -> GymSingle:
    """One environment; also called by worker processes."""
    return GymSingle(level_name, settings)


def _is_registered(level_name: str) -> bool:
    """Whether gymnasium or the user's module has this level. ValueError if that module lacks it or fails."""
    return own_levels.find_source(level_name) is not None


class GymSingle:
    """See mlma.envs.vector.sequential.SingleEnv."""

    reward_scale = 1.0

    def __init__(self, level_name: str, settings: EnvironmentConfig, render: bool = False) -> None:
        self.level_name = level_name
        self._env = own_levels.open_env(level_name, settings.env_args, render)
        try:
            self._converter = ObservationConverter(self._env.observation_space)
            self.actions = make_action_converter(self._env.action_space, settings.action_bounds)
        except ValueError as error:
            self._env.close()
            raise ValueError(f"--level_name={level_name}: {error}") from None
        self._repeats = settings.num_action_repeats or 1
        observation = self._converter.observation
        self._is_image = len(observation.shape) == 3
        if self._is_image:
            self._size = (settings.width or observation.shape[1], settings.height or observation.shape[0])
            self._grey = settings.color_mode == "grey" and observation.shape[2] == 3
            observation = ArraySpec((*reversed(self._size), 1 if self._grey else observation.shape[2]), "uint8")
        self.spec = EnvSpec(
            observation, self.actions.count, self._repeats, self._converter.extras, action_parts=self.actions.parts
        )

    def reset(self, seed: int | None) -> ObservationParts:
        """See SingleEnv."""
        result = self._env.reset(seed=seed)
        if not isinstance(result, tuple) or len(result) != 2:
            raise WrongResultError("returned something else than (observation, info)")
        return self._parts(result[0])

    def step(self, action: Any) -> tuple[ObservationParts, float, bool, bool]:
        """See SingleEnv. Sums rewards over repeated actions; stops repeating when the episode ends."""
        total, env_action = 0.0, self.actions.convert(action)
        for _ in range(self._repeats):
            result = self._env.step(env_action)
            if not isinstance(result, tuple) or len(result) != 5:
                raise WrongResultError(
                    "returned something else than (observation, reward, terminated, truncated, info)"
                )
            observation, reward, terminated, truncated, _ = result
            total += _number(reward)
            if terminated or truncated:
                break
        return self._parts(observation), total, bool(terminated), bool(truncated)

    def _parts(self, value: Any) -> ObservationParts:
        parts = self._converter.convert(value)
        if self._is_image:
            parts["observation"] = fit_image(parts["observation"], self._size, self._grey)
        return parts

    def render(self) -> Any:
        """uint8 [H, W, 3], or None without a render mode."""
        return None if getattr(self._env, "render_mode", None) is None else np.asarray(self._env.render())

    def close(self) -> None:
        """See SingleEnv."""
        self._env.close()


def _number(reward: Any) -> float:
    try:
        return float(reward)
    except (TypeError, ValueError):
        raise WrongResultError(f"returned the reward {shown(repr(reward))}, which is no number") from None


def fit_image(image: Any, size: tuple[int, int], grey: bool) -> Any:
    """Resizes an image to `size`, which is (width, height), and converts it to grey on request: uint8 [H, W, C]."""
    if grey:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    if image.shape[1::-1] != size:
        # Down to half the size, bilinear interpolation sees every pixel, and takes a fifth of the time.
        is_close = 2 * size[0] >= image.shape[1] and 2 * size[1] >= image.shape[0]
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if is_close else cv2.INTER_AREA)
    return image if image.ndim == 3 else image[..., np.newaxis]
