"""Several levels side by side as one VectorEnv: one observation, and the actions of all, of which each level has its own.

Not here: which environment plays which level (mlma/acting/trajectory_writer.py), how missing actions are masked (agents/networks/zoo.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlma.core.types import ArraySpec, EnvSpec, TimeStep, VectorEnv
from mlma.envs.vector.sequential import copy_timestep, timestep_layout

LEVEL_SPEC = {"level": ArraySpec((), "int32")}


def merge_specs(specs: dict[str, EnvSpec]) -> EnvSpec:
    """One spec for levels by name: the actions of all, by their names. ValueError if one network cannot see them all."""
    (name, first), *others = specs.items()
    more = dict(first.extras)
    for other, spec in others:
        for what, one, two in (
            ("observations", first.observation, spec.observation),
            ("frames per step", first.action_repeats, spec.action_repeats),
        ):
            if one != two:
                raise ValueError(f"--level_name: {what} differ: {name} has {_describe(one)}, {other} has {_describe(two)}")
        for field, leaf in spec.extras.items():
            if more.setdefault(field, leaf) != leaf:
                raise ValueError(
                    f"--level_name: {field} differ: {name} has {_describe(more[field])}, {other} has {_describe(leaf)}"
                )
    actions = list(dict.fromkeys(action for spec in specs.values() for action in action_names(spec)))
    places = {action: place for place, action in enumerate(actions)}
    actions_of = tuple(tuple(places[action] for action in action_names(spec)) for spec in specs.values())
    return EnvSpec(first.observation, len(actions), first.action_repeats, more | LEVEL_SPEC, tuple(actions), actions_of)


def _describe(value: Any) -> str:
    return f"{'x'.join(map(str, value.shape))} {value.dtype}" if isinstance(value, ArraySpec) else str(value)


def action_names(spec: EnvSpec) -> tuple[str, ...]:
    return spec.action_names or tuple(map(str, range(spec.num_actions)))


class MultiLevelVectorEnv:
    """See mlma.core.types.VectorEnv. What a level does not tell, such as words, is zero."""

    def __init__(self, spec: EnvSpec, numbers: Sequence[int], make: Callable[[int, int, int], VectorEnv]) -> None:
        """`numbers` are the levels of the environments; `make` takes a level, how many, and how many were made before."""
        self.spec, self.num_envs = spec, len(numbers)
        self.crashed = np.zeros(self.num_envs, bool)
        played = np.asarray(numbers)
        self._into = timestep_layout(spec).view(timestep_layout(spec).empty(self.num_envs))
        self._into.extras["level"][:] = played
        self._groups: list[tuple[Any, Any, Any]] = []  # rows, environments, their actions in ours
        made = 0
        for number in np.unique(played).tolist():
            rows = np.flatnonzero(played == number)
            self._groups.append((rows, make(number, len(rows), made), np.array(spec.actions_by_level[number])))
            made += len(rows)
        self._own = np.zeros((len(spec.actions_by_level), spec.num_actions), np.int32)  # ours -> a level's, 0 for what it lacks
        for level, own in zip(self._own, spec.actions_by_level, strict=True):
            level[list(own)] = range(len(own))

    def reset(self) -> TimeStep:
        return self._collect([env.reset() for _, env, _ in self._groups])

    def step(self, action: Any) -> TimeStep:
        own = self._own[self._into.extras["level"], np.asarray(action)]
        for rows, env, _ in self._groups:
            if hasattr(env, "send"):  # so that worker processes of different levels work at the same time
                env.send(own[rows])
        return self._collect([env.receive() if hasattr(env, "send") else env.step(own[rows]) for rows, env, _ in self._groups])

    def _collect(self, steps: list[TimeStep]) -> TimeStep:
        for (rows, env, ours), step in zip(self._groups, steps, strict=True):
            for field, values in zip(self._into[:-1], step[:-1], strict=True):
                field[rows] = values
            for name, values in step.extras.items():
                self._into.extras[name][rows] = values
            self._into.last_action[rows] = np.where(step.is_first, 0, ours[step.last_action])
            self.crashed[rows] = getattr(env, "crashed", False)
        return copy_timestep(self._into)

    def close(self) -> None:
        for _, env, _ in self._groups:
            env.close()
