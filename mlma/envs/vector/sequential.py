"""Steps E single environments one after the other, as one VectorEnv: gymnasium, VizDoom, DeepMind Lab.

A suite of such environments has `make_single(level_name, settings, evaluation)`, which returns a SingleEnv. Automatic
resets, sticky actions, episode statistics and the layout in memory are added here. Not here: worker processes
(mlma/envs/vector/multiprocess.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from mlma.core.actions import action_spec
from mlma.core.record_layout import RecordLayout, timestep_spec
from mlma.core.types import EnvSpec, TimeStep
from mlma.envs.failures import EnvironmentFailedError, WrongResultError
from mlma.envs.spaces import ObservationParts


class SingleEnv(Protocol):
    """One environment. Optional: `render()`, uint8 [H, W, 3], or None if it cannot; `level_name`, for messages."""

    spec: EnvSpec
    reward_scale: float  # of TimeStep.reward; TimeStep.episode_return is not scaled

    def reset(self, seed: int | None) -> ObservationParts:
        """Starts an episode. `seed` is given once, for the first episode."""
        ...

    def step(self, action: Any) -> tuple[ObservationParts, float, bool, bool]:
        """(observation, raw reward, terminated, truncated) after `spec.action_repeats` frames.

        The action is an int, or float32 [N] for actions with real numbers.
        """
        ...

    def close(self) -> None:
        """Releases everything."""
        ...


def timestep_layout(spec: EnvSpec) -> RecordLayout:
    """The memory layout of the TimeStep of one environment."""
    return RecordLayout(timestep_spec(spec))


class SyncVectorEnv:
    """See mlma.core.types.VectorEnv. The step after the end of an episode restarts it, as in mlma.envs.suites.atari."""

    def __init__(self, singles: list[SingleEnv], seed: int, sticky: float, buffer: TimeStep | None = None) -> None:
        """Environment i is seeded with `seed` + i; `sticky` is the probability of a sticky action. Time steps are
        written to `buffer` [E, ...], if given."""
        self.spec, self.num_envs = singles[0].spec, len(singles)
        self._singles, self._seed, self._sticky = singles, seed, sticky
        self._rng = np.random.default_rng([seed, 1])
        self._timestep = empty_timestep(self.spec, self.num_envs) if buffer is None else buffer
        self._over = np.zeros(self.num_envs, bool)
        # Actions passed to the environments; a sticky action repeats them.
        action = action_spec(self.spec)
        self._executed = np.zeros((self.num_envs, *action.shape), action.dtype)
        self._return, self._steps = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)

    def reset(self) -> TimeStep:
        """See mlma.core.types.VectorEnv. EnvironmentFailedError for whatever an environment raises."""
        self._began, self._total_steps = time.monotonic(), 0
        for i in range(self.num_envs):
            self._restart(i, self._seed + i)
        return copy_timestep(self._timestep)

    def step(self, action: Any) -> TimeStep:
        """See mlma.core.types.VectorEnv. EnvironmentFailedError for whatever an environment raises."""
        action = np.asarray(action, self._executed.dtype)
        self._total_steps += 1
        if self._sticky > 0:
            repeat = self._rng.random(self.num_envs) < self._sticky
            self._executed[~repeat] = action[~repeat]
        else:
            self._executed = action.copy()
        for i in range(self.num_envs):
            if self._over[i]:
                self._restart(i, None)
            else:
                self._step(i, action[i])
        return copy_timestep(self._timestep)

    def _restart(self, i: int, seed: int | None) -> None:
        self._over[i], self._return[i], self._steps[i], self._executed[i] = False, 0.0, 0, 0
        try:
            parts = self._singles[i].reset(seed)
            self._write(i, parts, reward=0.0, discount=1.0, is_first=True, last_action=0)
        except Exception as error:
            raise self._failure(i, "reset", error) from None

    def _step(self, i: int, action: Any) -> None:
        executed = self._executed[i]
        try:
            parts, reward, terminated, truncated = self._singles[i].step(executed if executed.ndim else int(executed))
            self._over[i] = terminated or truncated
            self._return[i] += reward
            self._steps[i] += 1
            scaled = reward * self._singles[i].reward_scale
            discount = 0.0 if terminated else 1.0
            self._write(i, parts, reward=scaled, discount=discount, is_first=False, last_action=action)
        except Exception as error:
            raise self._failure(i, "step", error) from None

    def _failure(self, i: int, method: str, error: Exception) -> EnvironmentFailedError:
        level_name, seconds = getattr(self._singles[i], "level_name", ""), time.monotonic() - self._began
        return EnvironmentFailedError(level_name, method, error, self._total_steps, seconds)

    def _write(self, i: int, parts: ObservationParts, **fields: Any) -> None:
        timestep = self._timestep
        if (shape := np.shape(parts["observation"])) != self.spec.observation.shape:  # numpy would repeat it
            expected = self.spec.observation.shape
            raise WrongResultError(f"returned an observation of shape {shape}; the level has {expected}")
        timestep.observation[i] = parts["observation"]
        for name, array in timestep.extras.items():
            array[i] = parts[name]
        for name, value in fields.items():
            getattr(timestep, name)[i] = value
        timestep.episode_return[i] = self._return[i] if self._over[i] else np.nan
        timestep.episode_frames[i] = self._steps[i] * self.spec.action_repeats if self._over[i] else 0

    def render(self, i: int) -> Any:
        """The image of environment i, uint8 [H, W, 3], or None."""
        return self._singles[i].render()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Closes all environments."""
        for single in self._singles:
            single.close()


def empty_timestep(spec: EnvSpec, num_envs: int) -> TimeStep:
    """A TimeStep [E, ...] of zeros to write to."""
    layout = timestep_layout(spec)
    return layout.view(layout.empty(num_envs))


def map_timestep(function: Callable[[Any], Any], timestep: TimeStep) -> TimeStep:
    """Applies `function` to each field and each entry of `extras`."""
    extras = {name: function(array) for name, array in timestep.extras.items()}
    fields: list[Any] = [*(function(field) for field in timestep[:-1]), extras]
    return TimeStep(*fields)


def copy_timestep(timestep: TimeStep) -> TimeStep:
    """A copy that later steps do not overwrite."""
    return map_timestep(lambda array: array.copy(), timestep)
