"""Converts actions of an agent to those of gymnasium spaces: one of a list, or a vector with real numbers.

A space without Box is a list of all its actions (mlma/envs/spaces.py). In any other, an action is float32 [N]: the
numbers of its Boxes and the indices of its other choices, in the order of the space (mlma/core/actions.py). Numbers
with bounds on both sides come in units in which these are -1 and 1; all are brought within their bounds here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from mlma.core.types import ActionPart, BoxPart, ChoicePart
from mlma.envs.spaces import list_actions

MAX_NUMBERS = 1024  # in an action
MAX_BOUND = 1e6  # larger ones count as none, since units of that size would be of no use
Builder = Callable[[Any], Any]  # float32 [N] -> an action as `env.step` takes it


class ActionConverter(Protocol):
    """The actions of one space."""

    count: int  # of the list; 0 if actions have real numbers
    parts: tuple[ActionPart, ...]  # of actions with real numbers; empty if there is a list

    def convert(self, action: Any) -> Any:
        """The action as `env.step` takes it."""
        ...


def make_action_converter(space: Any, bounds: str) -> ActionConverter:
    """`bounds` is --action_bounds. ValueError for an unsupported space; the caller adds the level's name."""
    return RealActions(space, bounds) if _has_box(space) else ListedActions(space)


class ListedActions:
    """See ActionConverter: actions that can be listed."""

    parts: tuple[ActionPart, ...] = ()

    def __init__(self, space: Any) -> None:
        self._actions = list_actions(space)
        self.count = len(self._actions)

    def convert(self, action: int) -> Any:
        """See ActionConverter."""
        return self._actions[action]


class RealActions:
    """See ActionConverter: actions with real numbers, float32 [N]."""

    count = 0

    def __init__(self, space: Any, bounds: str) -> None:
        leaves = list(_leaves(space))
        self.parts = tuple(part for leaf in leaves for part in _parts(leaf))
        numbers = sum(math.prod(leaf.shape) for leaf in leaves)
        if not 0 < numbers <= MAX_NUMBERS:
            raise ValueError(f"has actions of {numbers:,} numbers; 1 to {MAX_NUMBERS:,} are supported")
        self._build = _builder(space, itertools.count(), bounds == "tanh")

    def convert(self, action: Any) -> Any:
        """See ActionConverter. Numbers outside of their bounds are clipped, or squashed where both are finite."""
        return self._build(np.asarray(action, np.float32))


def _has_box(space: Any) -> bool:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return any(_has_box(part) for part in parts)
    return isinstance(space, spaces.Box)


def _leaves(space: Any) -> Iterator[Any]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _leaves(part)
    elif isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        yield space
    else:
        raise ValueError(
            f"has actions of {space}; supported are Box, Discrete, MultiDiscrete, MultiBinary, and Tuple and Dict of "
            "them"
        )


def _parts(leaf: Any) -> list[ActionPart]:
    if isinstance(leaf, spaces.Box):
        return [BoxPart(tuple(_bounded(leaf).ravel().tolist()))]
    if isinstance(leaf, spaces.Discrete):
        return [ChoicePart(int(leaf.n))]
    if isinstance(leaf, spaces.MultiDiscrete):
        return [ChoicePart(int(n)) for n in leaf.nvec.ravel()]
    return [ChoicePart(2)] * math.prod(leaf.shape)


def _bounded(box: Any) -> Any:
    """bool [...], the numbers that have bounds on both sides."""
    return (np.abs(box.low.astype(np.float64)) <= MAX_BOUND) & (np.abs(box.high.astype(np.float64)) <= MAX_BOUND)


def _builder(space: Any, positions: Iterator[int], squash: bool) -> Builder:
    """Builds the actions of a space from vectors, of which it takes the next of these positions."""
    if isinstance(space, spaces.Dict):
        named = {name: _builder(part, positions, squash) for name, part in space.spaces.items()}
        return lambda numbers: {name: build(numbers) for name, build in named.items()}
    if isinstance(space, spaces.Tuple):
        builders = [_builder(part, positions, squash) for part in space.spaces]
        return lambda numbers: tuple(build(numbers) for build in builders)
    if isinstance(space, spaces.Discrete):
        position, start, kind = next(positions), int(space.start), space.dtype.type
        return lambda numbers: kind(start + int(numbers[position]))
    taken = [next(positions) for _ in range(math.prod(space.shape))]
    own, shape = slice(taken[0], taken[-1] + 1) if taken else slice(0), space.shape
    if isinstance(space, spaces.Box):
        return _box_builder(space, own, squash)
    offset, dtype = space.start if isinstance(space, spaces.MultiDiscrete) else 0, space.dtype
    return lambda numbers: (numbers[own].reshape(shape).astype(dtype) + offset).astype(dtype)


def _box_builder(box: Any, own: slice, squash: bool) -> Builder:
    low, high, bounded = box.low.astype(np.float64), box.high.astype(np.float64), _bounded(box)
    with np.errstate(invalid="ignore"):  # where bounds are infinite
        center, half = np.where(bounded, (low + high) / 2, 0.0), np.where(bounded, (high - low) / 2, 1.0)
    unit_low, unit_high = np.where(bounded, -1.0, low), np.where(bounded, 1.0, high)
    is_float, dtype, shape = box.dtype.kind == "f", box.dtype, box.shape

    def build(numbers: Any) -> Any:
        numbers = numbers[own].reshape(shape)
        if squash:
            numbers = np.where(bounded, np.tanh(numbers), numbers)
        values = center + half * np.clip(numbers, unit_low, unit_high)
        # Rounded to the space's type, a number may end up just outside of its bound.
        return np.clip((values if is_float else np.rint(values)).astype(dtype), box.low, box.high)

    return build
