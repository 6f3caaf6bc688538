"""Which spaces are images, and their values as uint8 [H, W, C]: bytes or floats, channels last or first.

Not here: all other spaces (mlma/envs/spaces.py), resizing (mlma/envs/suites/gym.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from mlma.envs.failures import WrongResultError

MIN_IMAGE_SIDE = 20  # pixels; a smaller array is a board and becomes numbers
USUAL_CHANNELS = (1, 3, 4)
BYTE_LIMIT = 255.0
TOLERANCE = 1e-3  # relative, of floats beyond their bounds


class ImageFormat(NamedTuple):
    """How the values of a space become an image."""

    shape: tuple[int, int, int]  # height, width, channels
    channels_first: bool
    limit: float  # the value of white: 1 or 255


def image_format(space: Any) -> ImageFormat | None:
    """The format of a space of images, or None for any other space.

    ValueError, to be prefixed with the level, if images and numbers, or height, width and channels, cannot be told
    apart.
    """
    if not isinstance(space, spaces.Box) or sum(side >= MIN_IMAGE_SIDE for side in space.shape) < 2:
        return None
    limit, axes = _limit(space), len(space.shape)
    if axes == 3 and limit:
        channels_first = _channels_first(space)
        channels, *sides = space.shape if channels_first else (space.shape[2], *space.shape[:2])
        return ImageFormat((sides[0], sides[1], channels), channels_first, limit)
    if axes == 2 and limit == BYTE_LIMIT:
        height, width = space.shape
        return ImageFormat((height, width, 1), False, limit)
    if axes > 3 and limit:
        raise ValueError(
            f"has stacked images, {describe(space)}; return single ones: the network stacks --num_stacked_frames"
        )
    if (axes == 2 and limit) or (axes == 3 and _may_be_image(space)):
        raise ValueError(
            f"has observations of {describe(space)}: images or numbers? For images, declare uint8, or three axes and "
            "the bounds 0 to 1 or 0 to 255; for numbers, flatten them (gymnasium.wrappers.FlattenObservation)"
        )
    return None


def _limit(space: Any) -> float:
    """The value of white by type and bounds; 0 if they are not those of images."""
    if space.dtype == np.uint8:
        return BYTE_LIMIT
    if space.dtype.kind not in "fiu" or not (space.low == 0).all():
        return 0.0
    if (space.high == BYTE_LIMIT).all():
        return BYTE_LIMIT
    return 1.0 if space.dtype.kind == "f" and (space.high == 1).all() else 0.0


def _may_be_image(space: Any) -> bool:
    """Whether floats with other bounds have the shape of an image."""
    return space.dtype.kind == "f" and (space.shape[0] in USUAL_CHANNELS or space.shape[-1] in USUAL_CHANNELS)


def _channels_first(space: Any) -> bool:
    """Whether the first of three axes is that of the channels, rather than the last one."""
    first, middle, last = space.shape
    if middle >= MIN_IMAGE_SIDE:
        if first < MIN_IMAGE_SIDE or (middle == last != first):
            return True
        if last < MIN_IMAGE_SIDE or (first == middle != last):
            return False
    raise ValueError(f"has images of {describe(space)}: which axis has the channels? Return height x width x channels")


def describe(space: Any) -> str:
    """Shape, type and bounds of a Box."""
    shape = "x".join(map(str, space.shape))
    return f"{shape} {space.dtype.name} from {space.low.min():g} to {space.high.max():g}"


def to_image(value: Any, space: Any, image: ImageFormat) -> Any:
    """uint8 [H, W, C]. WrongResultError for a value outside of its space."""
    array = check_shape(np.asarray(value), space)
    if array.dtype != np.uint8:
        array = _to_bytes(array, space, image.limit)
    if image.channels_first:
        array = np.moveaxis(array, 0, -1)
    return np.ascontiguousarray(array.reshape(image.shape))


def _to_bytes(array: Any, space: Any, limit: float) -> Any:
    if array.dtype.kind not in "fiub" or (array.dtype.kind == "f") > (space.dtype.kind == "f"):
        raise WrongResultError(f"returned an observation of {array.dtype.name}; its space has {space.dtype.name}")
    low, high = array.min(), array.max()
    if not (low >= -TOLERANCE * limit and high <= (1 + TOLERANCE) * limit):  # which NaN is not
        raise WrongResultError(f"returned an observation from {low:g} to {high:g}; its space is {describe(space)}")
    return np.rint(np.clip(array, 0, limit) * (BYTE_LIMIT / limit)).astype(np.uint8)


def check_shape(array: Any, space: Any) -> Any:
    """The array. WrongResultError if it has another shape than its space."""
    if array.shape != space.shape:
        raise WrongResultError(f"returned an observation of shape {array.shape}; its space has {space.shape}")
    return array
