"""Observations as a level's own environment gives them, single or batched, for who steps that environment himself.

A gymnasium level is its id's environment without anything of ours; other levels give what their suite gives: an image
or a vector, or a dict of it and the extras. Not here: the conversion of one observation (mlma/envs/spaces.py), the
environments that actors step (mlma/envs/registry.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate

from mlma.core.types import EnvSpec
from mlma.envs.spaces import ObservationParts, hash_words


class RawLevel(NamedTuple):
    """What a level's own environment gives and takes."""

    space: Any  # of one observation
    convert: Callable[[Any], ObservationParts]  # one observation
    env_action: Callable[[Any], Any]  # an action of an agent -> as `env.step` takes it


def read_observations(raw: RawLevel, value: Any) -> tuple[ObservationParts, bool]:
    """(parts [B, ...], whether they are a batch) of one observation or a batch of them, as a vector environment's.

    ValueError, with both shapes, for anything else.
    """
    count = _batch_size(raw.space, value)
    if count is None:
        singles: Iterator[Any] = iter([value])
    else:
        singles = iterate(batch_space(raw.space, count), value)
    parts = [raw.convert(single) for single in singles]
    return {name: np.stack([each[name] for each in parts]) for name in parts[0]}, count is not None


def _batch_size(space: Any, value: Any) -> int | None:
    """The number of observations, from the first leaf; None for a single one."""
    while isinstance(space, spaces.Dict | spaces.Tuple):
        name: Any = next(iter(space.spaces)) if isinstance(space, spaces.Dict) else 0
        parts: Any = space.spaces
        try:
            space, value = parts[name], value[name]
        except (KeyError, TypeError, IndexError):
            raise ValueError(f"the observation has no {name!r}; must be one of {space}, or a batch of them") from None
    if isinstance(space, spaces.Text):
        return None if isinstance(value, str) else len(value)
    shape, given = space.shape or (), np.shape(value)
    if given == shape:
        return None
    if given[1:] == shape and given[0] > 0:
        return int(given[0])
    raise ValueError(f"the observation has the shape {given}; must be {shape}, or a batch of them")


def read_parts(spec: EnvSpec, value: Any) -> tuple[ObservationParts, bool]:
    """The same for a level that is no gymnasium id: an array, or a dict with "observation" and the extras of `spec`.

    The words of an instruction may be a text. Grey images may lack their last dimension, or have that of a frame stack
    of one in front, as ale-py's vector environment gives them.
    """
    given = dict(value) if isinstance(value, dict) else {"observation": value}
    expected = {"observation": spec.observation} | {k: v for k, v in spec.extras.items() if k != "level"}
    if given.keys() != expected.keys():
        raise ValueError(f"the observation has {', '.join(given)}; must have {', '.join(expected)}")
    if "words" in given:
        given["words"] = _hash_texts(given["words"])
    arrays = {name: np.asarray(array) for name, array in given.items()}
    frame, shape = arrays["observation"], spec.observation.shape
    if shape[-1] == 1 and len(shape) == 3 and frame.shape[-3:] != shape:
        if frame.shape[-2:] == shape[:2] and frame.ndim == 4 and frame.shape[1] == 1:
            frame = frame[:, 0]  # [B, 1, H, W]
        arrays["observation"] = frame[..., np.newaxis]
    is_batch = arrays["observation"].ndim > len(shape)
    parts = {name: array if is_batch else array[np.newaxis] for name, array in arrays.items()}
    count = len(parts["observation"])
    for name, leaf in expected.items():
        array = parts[name]
        if array.shape != (count, *leaf.shape) or not np.can_cast(array.dtype, leaf.dtype, "same_kind"):
            found = f"{array.dtype} {np.shape(given[name])}"
            raise ValueError(f"the {name} is {found}; must be {leaf.dtype} {leaf.shape}, or a batch of them")
        parts[name] = array.astype(leaf.dtype)
    return parts, is_batch


def _hash_texts(value: Any) -> Any:
    if isinstance(value, str):
        return hash_words(value)
    return np.stack([hash_words(text) if isinstance(text, str) else text for text in value])
