"""Conversion of gymnasium spaces to observation parts and a list of actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from mlma.core.types import WORD_BUCKETS
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
