"""E environments that can only be stepped one by one, as one VectorEnv: in turn, in this process. Gymnasium, VizDoom, DMLab.

A suite of such environments offers `single(level_name, config, evaluation)`; what it returns knows resets and steps, but not
time steps, restarts and sticky actions, which are here. Not here: worker processes (mlma/envs/vector/multiprocess.py).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from mlma.core.record_layout import RecordLayout, timestep_spec
from mlma.core.types import EnvSpec, TimeStep
from mlma.envs.spaces import ObservationParts


class SingleEnv(Protocol):
    """One environment. May also have `picture()`, uint8 [H, W, 3], or None if it cannot draw itself."""

    spec: EnvSpec
    reward_scale: float  # of what is learned from; returns are told as they are

    def reset(self, seed: int | None) -> ObservationParts:
        """With a seed once, at the beginning."""
        ...

    def step(self, action: int) -> tuple[ObservationParts, float, bool, bool]:
        """(observation, raw reward, terminated, truncated), after as many frames as the spec says."""
        ...

    def close(self) -> None: ...


def timestep_layout(spec: EnvSpec) -> RecordLayout:
    """How the TimeStep of one environment lies in memory."""
    return RecordLayout(timestep_spec(spec))


class SyncVectorEnv:
    """See mlma.core.types.VectorEnv. Autoreset as in mlma.envs.suites.atari: the step after the end of a game is its restart."""

    def __init__(self, singles: list[SingleEnv], seed: int, sticky: float, view: TimeStep | None = None) -> None:
        """Environment i has the seed `seed` + i. `view` [E, ...] is where time steps are written, if they are wanted there."""
        self.spec, self.num_envs = singles[0].spec, len(singles)
        self._singles, self._seed, self._sticky = singles, seed, sticky
        self._rng = np.random.default_rng([seed, 1])
        self._into = timestep_layout(self.spec).view(timestep_layout(self.spec).empty(self.num_envs)) if view is None else view
        self._over = np.zeros(self.num_envs, bool)
        self._done = np.zeros(self.num_envs, np.int32)  # the action that was done, which a sticky one repeats
        self._return, self._steps = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)

    def reset(self) -> TimeStep:
        for i in range(self.num_envs):
            self._restart(i, self._seed + i)
        return self._copy()

    def step(self, action: Any) -> TimeStep:
        action = np.asarray(action, np.int32)
        if self._sticky > 0:
            repeat = self._rng.random(self.num_envs) < self._sticky
            self._done = np.where(repeat, self._done, action)
        else:
            self._done = action.copy()
        for i in range(self.num_envs):
            if self._over[i]:
                self._restart(i, None)
            else:
                self._step(i, int(action[i]))
        return self._copy()

    def _restart(self, i: int, seed: int | None) -> None:
        self._over[i], self._return[i], self._steps[i], self._done[i] = False, 0.0, 0, 0
        self._write(i, self._singles[i].reset(seed), reward=0.0, discount=1.0, is_first=True, last_action=0)

    def _step(self, i: int, action: int) -> None:
        parts, reward, terminated, truncated = self._singles[i].step(int(self._done[i]))
        self._over[i] = terminated or truncated
        self._return[i] += reward
        self._steps[i] += 1
        scaled = reward * self._singles[i].reward_scale
        self._write(i, parts, reward=scaled, discount=0.0 if terminated else 1.0, is_first=False, last_action=action)

    def _write(self, i: int, parts: ObservationParts, **values: float) -> None:
        into = self._into
        into.observation[i] = parts["observation"]
        for name, array in into.extras.items():
            array[i] = parts[name]
        for name, value in values.items():
            getattr(into, name)[i] = value
        into.episode_return[i] = self._return[i] if self._over[i] else np.nan
        into.episode_frames[i] = self._steps[i] * self.spec.action_repeats if self._over[i] else 0

    def _copy(self) -> TimeStep:
        return copy_timestep(self._into)

    def render(self, i: int) -> Any:
        """uint8 [H, W, 3], or None."""
        return self._singles[i].render()  # type: ignore[attr-defined]

    def close(self) -> None:
        for single in self._singles:
            single.close()


def copy_timestep(view: TimeStep) -> TimeStep:
    """What the next step does not overwrite."""
    more = {name: array.copy() for name, array in view.extras.items()}
    fields: list[Any] = [*(field.copy() for field in view[:-1]), more]
    return TimeStep(*fields)
