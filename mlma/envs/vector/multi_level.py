"""Several levels in one VectorEnv: one observation format, and the union of the actions of all levels.

Not here: which environment gets which level (mlma/roles/actor.py), masking of actions that a level lacks
(agents/networks/zoo.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlma.core.types import ArraySpec, EnvSpec, TimeStep, VectorEnv
from mlma.envs.vector.sequential import copy_timestep, empty_timestep

LEVEL_SPEC = {"level": ArraySpec((), "int32")}


def merge_specs(specs: dict[str, EnvSpec]) -> EnvSpec:
    """One spec for levels by name, with the union of their actions. ValueError if one network cannot serve them all."""
    (name, first), *others = specs.items()
    extras = dict(first.extras)
    if real := [level for level, spec in specs.items() if spec.action_parts]:
        raise ValueError(f"--level_name: {real[0]} has actions of real numbers: allowed as the only level of a run")
    for other, spec in others:
        for what, expected, actual in (
            ("observations", first.observation, spec.observation),
            ("frames per step", first.action_repeats, spec.action_repeats),
        ):
            if expected != actual:
                raise ValueError(
                    f"--level_name: {what} differ: {name} has {_describe(expected)}, {other} has {_describe(actual)}"
                )
        for field, leaf in spec.extras.items():
            if extras.setdefault(field, leaf) != leaf:
                known = _describe(extras[field])
                raise ValueError(f"--level_name: {field} differ: {name} has {known}, {other} has {_describe(leaf)}")
    actions = list(dict.fromkeys(action for spec in specs.values() for action in action_names(spec)))
    indices = {action: index for index, action in enumerate(actions)}
    actions_by_level = tuple(tuple(indices[action] for action in action_names(spec)) for spec in specs.values())
    return EnvSpec(
        first.observation, len(actions), first.action_repeats, extras | LEVEL_SPEC, tuple(actions), actions_by_level
    )


def _describe(value: Any) -> str:
    return f"{'x'.join(map(str, value.shape))} {value.dtype}" if isinstance(value, ArraySpec) else str(value)


def action_names(spec: EnvSpec) -> tuple[str, ...]:
    """The names of the actions; their numbers if they have no names."""
    return spec.action_names or tuple(map(str, range(spec.num_actions)))


class MultiLevelVectorEnv:
    """See mlma.core.types.VectorEnv. Extras that a level lacks, such as words, are zero."""

    def __init__(self, spec: EnvSpec, levels: Sequence[int], make: Callable[[int, int, int], VectorEnv]) -> None:
        """`levels[i]` is the level of environment i, as an index into the levels of the run. `make(level, count,
        offset)` makes `count` environments of one level; `offset` is the number of environments made before, from which
        seeds derive."""
        self.spec, self.num_envs = spec, len(levels)
        self.crashed = np.zeros(self.num_envs, bool)
        level_of_env = np.asarray(levels)
        self._timestep = empty_timestep(spec, self.num_envs)
        self._timestep.extras["level"][:] = level_of_env
        # One group per level: its rows, its environments, and the index of each of its actions in the union.
        self._groups: list[tuple[Any, Any, Any]] = []
        offset = 0
        for level in np.unique(level_of_env).tolist():
            rows = np.flatnonzero(level_of_env == level)
            self._groups.append((rows, make(level, len(rows), offset), np.array(spec.actions_by_level[level])))
            offset += len(rows)
        # [level, action of the union] -> action of the level, 0 if the level lacks it
        self._level_actions = np.zeros((len(spec.actions_by_level), spec.num_actions), np.int32)
        for row, actions in zip(self._level_actions, spec.actions_by_level, strict=True):
            row[list(actions)] = range(len(actions))

    def reset(self) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        for _, env, _ in self._groups:
            if hasattr(env, "send"):  # so that the start of all levels takes as long as that of the slowest
                env.send(None)
        return self._collect([env.receive() if hasattr(env, "send") else env.reset() for _, env, _ in self._groups])

    def step(self, action: Any) -> TimeStep:
        """See mlma.core.types.VectorEnv."""
        level_action = self._level_actions[self._timestep.extras["level"], np.asarray(action)]
        for rows, env, _ in self._groups:
            if hasattr(env, "send"):  # so that worker processes of different levels run at the same time
                env.send(level_action[rows])
        return self._collect(
            [env.receive() if hasattr(env, "send") else env.step(level_action[rows]) for rows, env, _ in self._groups]
        )

    def _collect(self, timesteps: list[TimeStep]) -> TimeStep:
        for (rows, env, actions), timestep in zip(self._groups, timesteps, strict=True):
            for field, values in zip(self._timestep[:-1], timestep[:-1], strict=True):
                field[rows] = values
            for name, values in timestep.extras.items():
                self._timestep.extras[name][rows] = values
            self._timestep.last_action[rows] = np.where(timestep.is_first, 0, actions[timestep.last_action])
            self.crashed[rows] = getattr(env, "crashed", False)
        return copy_timestep(self._timestep)

    def level_cache_counts(self) -> Any:
        """Hits and misses of the level cache so far: int64 [2]."""
        counts = [env.level_cache_counts() for _, env, _ in self._groups if hasattr(env, "level_cache_counts")]
        return np.sum([np.zeros(2, np.int64), *counts], axis=0)

    def close(self) -> None:
        """Closes the environments of all levels."""
        for _, env, _ in self._groups:
            env.close()
