"""Conversion of gymnasium spaces to observation parts and a list of actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from mlma.core.types import WORD_BUCKETS
from mlma.envs.failures import WrongResultError
from mlma.envs.spaces import MAX_WORDS, ObservationConverter, hash_words, list_actions


def image_space(height: int = 30, width: int = 40, channels: int = 3) -> spaces.Box:
    return spaces.Box(0, 255, (height, width, channels), np.uint8)


def test_a_dictionary_becomes_an_image_numbers_and_words() -> None:
    space = spaces.Dict(
        screen=image_space(), depth=image_space(channels=1), speed=spaces.Box(-1, 1, (2,)),
        gear=spaces.Discrete(3, start=1), seats=spaces.MultiDiscrete([2, 3]), doors=spaces.MultiBinary(2),
        task=spaces.Text(100),
    )  # fmt: skip
    converter = ObservationConverter(space)
    assert converter.observation == ((30, 40, 4), "uint8")
    assert converter.extras == {"vector": ((12,), "float32"), "words": ((MAX_WORDS,), "int32")}
    screen, depth = np.full((30, 40, 3), 7, np.uint8), np.full((30, 40, 1), 9, np.uint8)
    parts = converter.convert(
        dict(
            screen=screen, depth=depth, speed=[0.5, -1], gear=3, seats=[1, 2], doors=[0, 1], task="Drive home, please."
        )
    )
    position = {name: i for i, name in enumerate(space.spaces)}  # gymnasium sorts them
    images = sorted((("screen", 7, 3), ("depth", 9, 1)), key=lambda item: position[item[0]])
    np.testing.assert_array_equal(parts["observation"][0, 0], [grey for _, grey, n in images for _ in range(n)])
    numbers: dict[str, list[float]] = {"speed": [0.5, -1], "gear": [0, 0, 1], "seats": [0, 1, 0, 0, 1], "doors": [0, 1]}
    expected = [number for name in space.spaces for number in numbers.get(name, [])]
    np.testing.assert_array_equal(parts["vector"], expected)
    np.testing.assert_array_equal(parts["words"], hash_words("drive home please"))


def test_vectors_are_flattened_and_a_small_image_is_a_board() -> None:
    for space, size in (
        (spaces.Box(-1, 1, (2, 3)), 6), (spaces.Discrete(5), 5), (spaces.MultiBinary(4), 4), (image_space(7, 7), 147),
        (spaces.Tuple((spaces.Discrete(32), spaces.Discrete(11), spaces.Discrete(2))), 45),
    ):  # fmt: skip
        converter = ObservationConverter(space)
        assert converter.observation == ((size,), "float32")
        assert converter.extras == {}
        assert converter.convert(space.sample())["observation"].shape == (size,)


def test_grey_images_without_channels_get_one() -> None:
    converter = ObservationConverter(spaces.Box(0, 255, (30, 40), np.uint8))
    assert converter.observation == ((30, 40, 1), "uint8")
    assert converter.convert(np.zeros((30, 40), np.uint8))["observation"].shape == (30, 40, 1)


def box(*shape: int, low: float = 0, high: float = 255, dtype: Any = np.uint8) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (box(3, 48, 40), (48, 40, 3)),
        (box(48, 40, 3, high=1, dtype=np.float32), (48, 40, 3)),
        (box(48, 40, 3, dtype=np.float64), (48, 40, 3)),
        (box(1, 48, 40, high=1, dtype=np.float32), (48, 40, 1)),
        (box(48, 40, 3, dtype=np.int64), (48, 40, 3)),
        (box(32, 48, 48), (48, 48, 32)),
        (box(48, 48, 32), (48, 48, 32)),
        (box(48, 40, dtype=np.float32), (48, 40, 1)),
    ],
)
def test_images_are_recognised_with_channels_first_and_as_floats(space: spaces.Box, shape: tuple[int, ...]) -> None:
    converter = ObservationConverter(space)
    assert converter.observation == (shape, "uint8")
    value = np.zeros(space.shape, space.dtype)
    bright = (0, 5, 7) if space.shape[0] < 33 else (5, 7, 0)[: len(space.shape)]
    value[bright] = space.high.max()
    image = converter.convert(value)["observation"]
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert np.argwhere(image).tolist() == [[5, 7, 0]]
    assert image.max() == 255


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        (box(30, 40, 50), "which axis has the channels"),
        (box(40, 40, 40), "which axis has the channels"),
        (box(48, 3, 48), "which axis has the channels"),
        (box(4, 48, 48, 3), "stacked images"),
        (box(48, 40, high=1, dtype=np.float32), "images or numbers"),
        (box(48, 40, 3, low=-1, high=1, dtype=np.float32), "images or numbers"),
    ],
)
def test_what_may_be_an_image_is_refused_instead_of_flattened(space: spaces.Box, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ObservationConverter(space)


def test_numbers_stay_numbers() -> None:
    for space in (box(19, 19, 17), box(30, 40, low=-1, high=1, dtype=np.float32), box(30, 40, high=9, dtype=np.int64)):
        assert ObservationConverter(space).observation == ((int(np.prod(space.shape)),), "float32")


@pytest.mark.parametrize(
    ("space", "value", "problem"),
    [
        (box(4, dtype=np.float32), np.zeros(1), r"shape \(1,\); its space has \(4,\)"),
        (box(48, 40, 3), np.zeros((40, 48, 3), np.uint8), "shape"),
        (box(48, 40, 3), np.zeros((48, 40, 3), np.float32), "float32; its space has uint8"),
        (box(48, 40, 3, high=1, dtype=np.float32), np.full((48, 40, 3), 7.0), "from 7 to 7"),
        (box(48, 40, 3, high=1, dtype=np.float32), np.full((48, 40, 3), np.nan), "from nan to nan"),
        (spaces.Discrete(3), 3, "returned 3 where its space has 0 to 2"),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 3]), "where its space has 0 to 2"),
        (spaces.MultiDiscrete([2, 3]), np.array([0]), "shape"),
        (spaces.Dict(a=spaces.Discrete(2)), {"b": 0}, "without the entry 'a'"),
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), (0,), "no tuple of 2 entries"),
    ],
)
def test_values_that_do_not_fit_their_space_are_refused(space: Any, value: Any, problem: str) -> None:
    with pytest.raises(WrongResultError, match=problem):
        ObservationConverter(space).convert(value)


def test_the_same_space_may_occur_twice() -> None:
    converter = ObservationConverter(spaces.Dict(a=(space := image_space()), b=space))
    assert converter.observation == ((30, 40, 6), "uint8")


def test_a_text_alone_gets_a_constant_observation() -> None:
    converter = ObservationConverter(spaces.Text(10))
    assert converter.observation == ((1,), "float32")
    assert converter.convert("go")["observation"].tolist() == [0.0]


@pytest.mark.parametrize(
    "space", [spaces.Sequence(spaces.Discrete(2)), spaces.Dict(a=image_space(), b=image_space(31))]
)
def test_unsupported_observations_are_refused(space: Any) -> None:
    with pytest.raises(ValueError, match=r"has (observations of|images of different sizes)"):
        ObservationConverter(space)


def test_words_fall_into_buckets_that_never_change() -> None:
    buckets = hash_words("Go to the red door. Go!")
    assert buckets.dtype == np.int32
    assert buckets[0] == buckets[5]  # ignores case and punctuation
    assert (buckets[:6] > 0).all() and (buckets[6:] == 0).all()
    assert len(set(buckets[:5])) == 5
    assert buckets[0] == 775
    assert buckets.max() <= WORD_BUCKETS
    assert (hash_words("door " * 100) > 0).all()


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(2, start=5), [5, 6]),
        (spaces.MultiDiscrete([2, 2]), [[0, 0], [0, 1], [1, 0], [1, 1]]),
        (spaces.MultiDiscrete([2, 1], start=[1, 7]), [[1, 7], [2, 7]]),
        (spaces.MultiBinary(1), [[0], [1]]),
        (spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(1))), [(0, [0]), (0, [1]), (1, [0]), (1, [1])]),
        (spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(1)), [{"a": 0, "b": 0}, {"a": 1, "b": 0}]),
    ],
)
def test_all_actions_of_a_space_are_listed(space: Any, expected: list[Any]) -> None:
    actions = list_actions(space)
    assert all(space.contains(action) for action in actions)
    assert repr(_plain(actions)) == repr(_plain(expected))


def _plain(value: Any) -> Any:
    """Nested dicts, lists and ints."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    return int(value)


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (1,))))])
def test_actions_that_cannot_be_listed_are_refused(space: Any) -> None:
    with pytest.raises(ValueError, match=r"has action space Box.*supported are Discrete"):
        list_actions(space)


def test_too_many_combinations_are_refused_before_they_are_listed() -> None:
    with pytest.raises(ValueError, match="1,000,000,000,000 combinations of actions; at most 1,024"):
        list_actions(spaces.MultiDiscrete([10] * 12))
