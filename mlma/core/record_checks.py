"""Checks of the numbers in records that came from outside: a few numpy calls per field, whatever its size.

A record's bytes can hold any number, so each field that a network, a loss or a statistic reads is checked before. Bytes
that are 0 to 255 by their type need no check. Not here: headers (mlma/transport/header_fields.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlma.core.actions import MAX_LOG_SPREAD, MIN_LOG_SPREAD, part_width, split_policy
from mlma.core.refusal import RefusedError
from mlma.core.types import WORD_BUCKETS, BoxPart, EnvSpec, TimeStep

MAX_EPISODE_FRAMES = 2**30
# Sane numbers are far smaller; larger ones overflow in the loss or in the norm of the gradient.
MAX_OBSERVATION = 1e6
MAX_REWARD = 1e8
MAX_ACTION = 1e6  # of the real numbers of an action


def check_range(name: str, array: Any, low: float, high: float) -> None:
    """RefusedError unless all numbers are within [low, high], which NaN is not."""
    smallest, largest = array.min(), array.max()
    if not (smallest >= low and largest <= high):
        if not (np.isfinite(smallest) and np.isfinite(largest)):
            raise RefusedError("not_finite", f"{name} is not finite")
        raise RefusedError("out_of_range", f"{name} {smallest:g} to {largest:g}: must be within {low:g} to {high:g}")


def check_magnitude(name: str, array: Any, limit: float) -> None:
    """RefusedError if a number is NaN or larger than `limit`; bytes never are."""
    if array.dtype.kind != "u":
        check_range(name, array, -limit, limit)


def check_flags(name: str, array: Any) -> None:
    """RefusedError if a bool is stored as another byte than 0 or 1, with which numpy computes nonsense."""
    if array.view(np.uint8).max() > 1:
        raise RefusedError("out_of_range", f"{name} has bytes that are neither 0 nor 1")


def check_inputs(steps: TimeStep, spec: EnvSpec) -> None:
    """RefusedError for inputs of a network that are not finite or too large, or that it cannot look up in a table."""
    check_magnitude("observation", steps.observation, MAX_OBSERVATION)
    check_magnitude("reward", steps.reward, MAX_REWARD)
    check_flags("is_first", steps.is_first)
    check_actions("last_action", steps.last_action, spec)
    limits = {"level": len(spec.actions_by_level) - 1, "words": WORD_BUCKETS}
    for name, array in steps.extras.items():
        if name in limits:
            check_range(name, array, 0, limits[name])
        else:
            check_magnitude(name, array, MAX_OBSERVATION)


def check_actions(name: str, actions: Any, spec: EnvSpec) -> None:
    """RefusedError for actions that the level does not have: int [...], or with real numbers float [..., N]."""
    if not spec.action_parts:
        check_range(name, actions, 0, spec.num_actions - 1)
        return
    start = 0
    for part in spec.action_parts:
        numbers = actions[..., start : start + part_width(part)]
        start += part_width(part)
        if isinstance(part, BoxPart):
            check_magnitude(name, numbers, MAX_ACTION)
            continue
        check_range(name, numbers, 0, part.alternatives - 1)
        if (numbers != np.floor(numbers)).any():
            raise RefusedError("out_of_range", f"{name}: the index of a choice is no whole number")


def check_spreads(outputs: Any, spec: EnvSpec) -> None:
    """RefusedError for outputs [..., P] of a policy with a spread that no network has: its densities overflow."""
    for part, parameters in zip(spec.action_parts, split_policy(spec, outputs), strict=True):
        if isinstance(part, BoxPart):
            check_range("log_spread", parameters[..., len(part.bounded) :], MIN_LOG_SPREAD, MAX_LOG_SPREAD)


def check_outcomes(steps: TimeStep) -> None:
    """RefusedError for discounts, returns and lengths of episodes that no environment has."""
    check_range("discount", steps.discount, 0, 1)
    check_range("episode_frames", steps.episode_frames, 0, MAX_EPISODE_FRAMES)
    if np.isinf(steps.episode_return).any():  # NaN where no episode ended
        raise RefusedError("not_finite", "episode_return is infinite")
