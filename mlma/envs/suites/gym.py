"""Any registered gymnasium id whose actions can be listed, and `module:Id`, which imports a module that registers it.

Not here: which observations and actions (mlma/envs/spaces.py); stepping them in turn or in processes.
"""

from __future__ import annotations

import warnings
from typing import Any

import cv2
import gymnasium
import numpy as np

from mlma.core.config import EnvironmentConfig
from mlma.core.types import ArraySpec, EnvSpec, VectorEnv
from mlma.envs.spaces import ObservationConverter, ObservationParts, list_actions
from mlma.envs.vector.multiprocess import SubprocessVectorEnv
from mlma.envs.vector.sequential import SingleEnv, SyncVectorEnv


def level_names() -> list[str]:
    return [name for name, spec in gymnasium.registry.items() if spec.namespace != "ALE" and "NoFrameskip" not in name]


def make_env(level_name: str, num_envs: int, seed: int, config: EnvironmentConfig, evaluation: bool) -> VectorEnv | None:
    if not _is_registered(level_name):
        return None
    sticky = max(0.0, config.sticky_actions)
    if config.env_processes > 0:
        spec = env_spec(level_name, config)
        assert spec
        return SubprocessVectorEnv(__name__, level_name, spec, num_envs, config.env_processes, seed, config, evaluation, sticky)
    return SyncVectorEnv([make_single(level_name, config, evaluation) for _ in range(num_envs)], seed, sticky)


def env_spec(level_name: str, config: EnvironmentConfig) -> EnvSpec | None:
    if not _is_registered(level_name):
        return None
    env = make_single(level_name, config, evaluation=False)
    env.close()
    return env.spec


def make_for_video(level_name: str, num_envs: int, seed: int, config: EnvironmentConfig) -> VectorEnv | None:
    """The same games with pictures; None where the environment cannot draw."""
    if not _is_registered(level_name):
        return None
    envs: list[SingleEnv] = [GymSingle(level_name, config, render_mode="rgb_array") for _ in range(num_envs)]
    env = SyncVectorEnv(envs, seed, max(0.0, config.sticky_actions))
    try:
        env.reset()
        env.render(0)
    except (gymnasium.error.Error, AttributeError):
        env.close()
        return None
    return env


def make_single(level_name: str, config: EnvironmentConfig, evaluation: bool) -> GymSingle:
    _is_registered(level_name)  # a worker has not imported its module yet
    return GymSingle(level_name, config)


def _is_registered(level_name: str) -> bool:
    """Whether there is this level; imports its module, if it names one. ValueError if that cannot be."""
    module, colon, name = level_name.rpartition(":")
    if not colon:
        return level_name in gymnasium.registry
    try:
        __import__(module)
    except ImportError as problem:
        raise ValueError(f"--level_name={level_name}: cannot import {module}: {problem}") from None
    if name not in gymnasium.registry:
        raise ValueError(f"--level_name={level_name}: {module} registers no {name}")
    return True


class GymSingle:
    """See mlma.envs.vector.sequential.SingleEnv."""

    reward_scale = 1.0

    def __init__(self, level_name: str, config: EnvironmentConfig, **options: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # gymnasium warns of ids that have a newer version
                self._env = gymnasium.make(level_name.rpartition(":")[2], **options)
        except (gymnasium.error.Error, ImportError) as problem:  # most ids need a package that is not here
            raise ValueError(f"--level_name={level_name}: {' '.join(str(problem).split())}") from None
        try:
            self._observations = ObservationConverter(self._env.observation_space)
            self._actions = list_actions(self._env.action_space)
        except ValueError as problem:
            self._env.close()
            raise ValueError(f"--level_name={level_name}: {problem}") from None
        self._repeats = config.num_action_repeats or 1
        observation = self._observations.observation
        self._image = len(observation.shape) == 3
        if self._image:
            self._size = (config.width or observation.shape[1], config.height or observation.shape[0])
            self._grey = config.color_mode == "grey" and observation.shape[2] == 3
            observation = ArraySpec((*reversed(self._size), 1 if self._grey else observation.shape[2]), "uint8")
        self.spec = EnvSpec(observation, len(self._actions), self._repeats, self._observations.extras)

    def reset(self, seed: int | None) -> ObservationParts:
        observation, _ = self._env.reset(seed=seed)
        return self._parts(observation)

    def step(self, action: int) -> tuple[ObservationParts, float, bool, bool]:
        total = 0.0
        for _ in range(self._repeats):
            observation, reward, terminated, truncated, _ = self._env.step(self._actions[action])
            total += float(reward)
            if terminated or truncated:
                break
        return self._parts(observation), total, bool(terminated), bool(truncated)

    def _parts(self, value: Any) -> ObservationParts:
        parts = self._observations.parts(value)
        if self._image:
            parts["observation"] = fit_image(parts["observation"], self._size, self._grey)
        return parts

    def render(self) -> Any:
        return None if self._env.render_mode is None else np.asarray(self._env.render())

    def close(self) -> None:
        self._env.close()


def fit_image(image: Any, size: tuple[int, int], grey: bool) -> Any:
    """An image in this (width, height), and in shades of grey if wanted: uint8 [H, W, C]."""
    if grey:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    if image.shape[1::-1] != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image if image.ndim == 3 else image[..., np.newaxis]
