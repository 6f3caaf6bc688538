"""What a replay refuses and what removes a window: the cases of DQN Zoo's replay_test.py that are not elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.replays import STEPS, T, endless_episode, make_replay, sample_from


@pytest.mark.parametrize("key", [-1, -5 * T, 5 * T, 2**40])
def test_a_key_that_no_sample_can_have_had_is_refused_and_nothing_changes(key: int) -> None:
    replay = make_replay(STEPS)  # with empty slots, and keys 0 to 5 T - 1 so far
    replay.insert(endless_episode(5))
    before, windows = replay._tree._nodes.copy(), replay._num_windows
    with pytest.raises(IndexError, match=f"keys of windows are 0 to {5 * T - 1} so far"):
        replay.update_priorities([0, key], [1.0, 1.0])
    np.testing.assert_array_equal(replay._tree._nodes, before)
    assert replay._num_windows == windows


def test_a_key_without_a_window_gets_none() -> None:
    """Step 5 T - 1 waits for the trajectory after it; the window of step 3 has been removed."""
    replay = make_replay(STEPS)
    replay.insert(endless_episode(5))
    replay.update_priorities([3], [np.nan])
    before, windows = replay._tree._nodes.copy(), replay._num_windows
    replay.update_priorities([3, 5 * T - 1], [9.0, 9.0])
    np.testing.assert_array_equal(replay._tree._nodes, before)
    assert replay._num_windows == windows


def test_each_window_needs_a_priority() -> None:
    replay = make_replay(STEPS)
    replay.insert(endless_episode(5))
    with pytest.raises(ValueError, match="2 windows have 1 priorities"):
        replay.update_priorities([0, 1], [1.0])
    before = replay._tree._nodes.copy()
    replay.update_priorities([], [])
    np.testing.assert_array_equal(replay._tree._nodes, before)


@pytest.mark.parametrize(
    "exponents", [(-0.1, 0.4), (np.nan, 0.4), (np.inf, 0.4), (0.6, -0.1), (0.6, 1.1), (0.6, np.nan)]
)
def test_exponents_out_of_range_are_refused(exponents: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="exponents"):
        make_replay(STEPS, exponents=exponents)


@pytest.mark.parametrize("sizes", [{"capacity": 0}, {"capacity": -1}, {"batch_size": 0}])
def test_a_replay_or_a_sample_of_size_zero_is_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        make_replay(STEPS, **sizes)


def test_an_empty_replay_has_no_sample() -> None:
    assert make_replay(STEPS).sample(0.01) is None


def test_a_priority_whose_power_overflows_removes_its_window() -> None:
    replay = make_replay(STEPS, exponents=(3.0, 0.4))
    replay.insert(endless_episode(5))
    windows = replay._num_windows
    replay.update_priorities([0, 1, 2], [1e300, 1e40, 1e30])  # cubed: infinite, sums of it may be, a number
    assert replay._num_windows == windows - 2
    assert np.isfinite(replay._tree.total)
    sample = sample_from(replay)
    assert set(sample.keys) == {2}
    assert np.isfinite(sample.importance_weights).all()


def test_with_exponent_zero_all_windows_are_as_likely_whatever_their_priorities() -> None:
    replay = make_replay(STEPS, exponents=(0.0, 1.0))
    replay.insert(endless_episode(5))
    replay.update_priorities([0, 1, 2], [0.0, 1e9, 7.0])
    assert set(replay._tree.get(np.arange(4 * T))) == {1.0}
    np.testing.assert_array_equal(sample_from(replay).importance_weights, np.ones(64))
