"""Converts gymnasium spaces to what networks take: one image or vector, extra numbers and words, and a list of actions.

Dict and Tuple spaces are flattened: images are concatenated along their channels, all other numbers form one vector
(Discrete as one-hot), and texts are joined. Values that do not fit their space are refused: numpy would repeat, cut or
rearrange them without a word. MultiDiscrete, MultiBinary, Tuple and Dict actions become the list of their
combinations. Not here: what is an image (mlma/envs/image_spaces.py), stepping (mlma/envs/suites/gym.py).
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from mlma.core.types import WORD_BUCKETS, ArraySpec
from mlma.envs.failures import WrongResultError
from mlma.envs.image_spaces import ImageFormat, check_shape, image_format, to_image

MAX_WORDS = 24  # longer texts are truncated
MAX_ACTIONS = 1024
ObservationParts = dict[str, Any]  # "observation", and the entries of TimeStep.extras that the level has


def hash_words(text: str) -> Any:
    """int32 [MAX_WORDS], hash buckets of the words, padded with 0; the same on every machine."""
    buckets = np.zeros(MAX_WORDS, np.int32)
    for i, word in enumerate(text.lower().split()[:MAX_WORDS]):
        buckets[i] = 1 + zlib.crc32(word.strip(".,;:!?\"'()").encode()) % WORD_BUCKETS
    return buckets


class ObservationConverter:
    """Converts observations of one space to ObservationParts; `observation` and `extras` are the specs of the parts."""

    def __init__(self, space: Any) -> None:
        """ValueError for an unsupported space; the caller adds the name of the level to the message."""
        self._space = space
        leaves = list(_leaves(space))
        self._formats: dict[int, ImageFormat | None] = {id(leaf): image_format(leaf) for leaf in leaves}
        images = [image.shape for leaf in leaves if (image := self._formats[id(leaf)])]
        if len({shape[:2] for shape in images}) > 1:
            raise ValueError(
                f"has images of different sizes: {', '.join('x'.join(map(str, shape)) for shape in images)}"
            )
        self._has_text = any(_is_text(leaf) for leaf in leaves)
        num_numbers = sum(_flat_size(leaf) for leaf in leaves if not self._formats[id(leaf)])
        vector = ArraySpec((max(1, num_numbers),), "float32")  # a constant if the space is only text
        self._has_image, self._has_numbers = bool(images), num_numbers > 0
        self.observation = vector
        self.extras: dict[str, ArraySpec] = {}
        if images:
            self.observation = ArraySpec((*images[0][:2], sum(shape[2] for shape in images)), "uint8")
            if self._has_numbers:
                self.extras["vector"] = vector
        if self._has_text:
            self.extras["words"] = ArraySpec((MAX_WORDS,), "int32")

    def convert(self, value: Any) -> ObservationParts:
        """The parts of one observation. WrongResultError if it does not fit the space."""
        images, numbers, texts = [], [], []
        for leaf, leaf_value in _leaf_values(self._space, value):
            if image := self._formats[id(leaf)]:
                images.append(to_image(leaf_value, leaf, image))
            elif _is_text(leaf):
                texts.append(str(leaf_value))
            else:
                numbers.append(_flatten(leaf, leaf_value))
        vector = np.concatenate(numbers) if self._has_numbers else np.zeros(1, np.float32)
        parts: ObservationParts = {"observation": vector}
        if self._has_image:
            parts = {"observation": np.concatenate(images, axis=-1) if len(images) > 1 else images[0]}
            if self._has_numbers:
                parts["vector"] = vector
        if self._has_text:
            parts["words"] = hash_words(" ".join(texts))
        return parts


def _leaves(space: Any) -> Iterator[Any]:
    if isinstance(space, spaces.Dict):
        for part in space.spaces.values():
            yield from _leaves(part)
    elif isinstance(space, spaces.Tuple):
        for part in space.spaces:
            yield from _leaves(part)
    elif _is_text(space) or isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        yield space
    else:
        raise ValueError(
            f"has observations of {space}; supported are Box, Discrete, MultiDiscrete, MultiBinary, text, Dict, Tuple"
        )


def _leaf_values(space: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    """Leaves in the order of `_leaves`, each with its value."""
    if isinstance(space, spaces.Dict):
        for name, part in space.spaces.items():
            try:
                entry = value[name]
            except (KeyError, IndexError, TypeError):
                raise WrongResultError(f"returned an observation without the entry {name!r} of its space") from None
            yield from _leaf_values(part, entry)
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            raise WrongResultError(f"returned an observation that is no tuple of {len(space.spaces)} entries")
        for part, inner in zip(space.spaces, value, strict=True):
            yield from _leaf_values(part, inner)
    else:
        yield space, value


def _is_text(space: Any) -> bool:
    return space.dtype is not None and space.dtype.kind == "U"


def _flat_size(space: Any) -> int:
    if _is_text(space):
        return 0
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return math.prod(space.shape)


def _flatten(space: Any, value: Any) -> Any:
    """Numbers [N] of a leaf; a choice among n is one-hot."""
    if isinstance(space, spaces.Discrete):
        return _one_hot(space.n, value, space.start)
    if isinstance(space, spaces.MultiDiscrete):
        chosen, start = check_shape(np.asarray(value), space).ravel(), space.start.ravel()
        return np.concatenate([_one_hot(*each) for each in zip(space.nvec.ravel(), chosen, start, strict=True)])
    return check_shape(np.asarray(value, np.float32), space).ravel()


def _one_hot(count: Any, value: Any, start: Any) -> Any:
    chosen = np.arange(start, start + count) == value
    if chosen.shape != (count,) or not chosen.any():
        raise WrongResultError(f"returned {value!r} where its space has {start} to {start + count - 1}")
    return chosen


def list_actions(space: Any) -> list[Any]:
    """Every action as `env.step` takes it. ValueError if they cannot be listed or are more than MAX_ACTIONS."""
    return list(_actions(space))


def _actions(space: Any) -> Any:
    count = _count_actions(space)
    if count > MAX_ACTIONS:
        raise ValueError(f"has {count:,} combinations of actions; at most {MAX_ACTIONS:,} are supported")
    if isinstance(space, spaces.Discrete):
        return [space.dtype.type(space.start + i) for i in range(space.n)]
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        start = space.start if isinstance(space, spaces.MultiDiscrete) else np.zeros(space.shape, space.dtype)
        rows = itertools.product(*(range(n) for n in _choices_per_dimension(space)))
        return [(np.reshape(row, space.shape) + start).astype(space.dtype) for row in rows]
    if isinstance(space, spaces.Tuple):
        return itertools.product(*(_actions(part) for part in space.spaces))
    names = list(space.spaces)
    return (dict(zip(names, row, strict=True)) for row in itertools.product(*(_actions(space[name]) for name in names)))


def _choices_per_dimension(space: Any) -> list[int]:
    if isinstance(space, spaces.MultiBinary):
        return [2] * math.prod(space.shape)
    return [int(n) for n in space.nvec.ravel()]


def _count_actions(space: Any) -> int:
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return math.prod(_choices_per_dimension(space))
    if isinstance(space, spaces.Tuple):
        return math.prod(_count_actions(part) for part in space.spaces)
    if isinstance(space, spaces.Dict):
        return math.prod(_count_actions(part) for part in space.spaces.values())
    raise ValueError(
        f"has action space {space}; supported are Discrete, MultiDiscrete, MultiBinary, and Tuple and Dict of them"
    )
