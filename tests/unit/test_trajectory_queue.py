"""The queue between the transport and the learner: order, shape, back-pressure."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mlma.core.record_layout import RecordLayout, trajectory_spec
from mlma.core.types import NetworkState, Sample
from mlma.replay.trajectory_queue import TrajectoryQueue
from tests.support.samples import VECTOR

STATE = NetworkState(frames=None, core=(tf.zeros([1, 4]), tf.zeros([1, 4])))
UNROLL = 3
LAYOUT = RecordLayout(trajectory_spec(VECTOR, STATE, UNROLL))


def trajectories(*numbers: int) -> Any:
    """Records whose values identify trajectory and step."""
    records = LAYOUT.empty(len(numbers))
    view = LAYOUT.view(records)
    for i, number in enumerate(numbers):
        view.weights_version[i] = view.actor_id[i] = number
        view.agent_state.core[0][i] = number
        for t in range(UNROLL + 1):
            view.timesteps.observation[i, t] = [number, t, -1]
            view.timesteps.reward[i, t] = 100 * number + t
            view.act_outputs.logits[i, t] = [number, t, -2]
    return records


def numbers(sample: Sample | None) -> list[int]:
    """The numbers of the trajectories of a sample."""
    assert sample is not None
    return sample.trajectory.weights_version.tolist()


def start(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_trajectories_come_out_in_order_and_once_however_they_went_in() -> None:
    queue = TrajectoryQueue(LAYOUT, batch_size=2, capacity=8)
    for inserted in ([1], [2, 3, 4], [5, 6, 7], [8]):
        queue.insert(trajectories(*inserted))
    assert [numbers(queue.sample(1)) for _ in range(4)] == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert queue.sample(0.01) is None


def test_a_sample_is_time_first_and_every_value_at_its_place() -> None:
    queue = TrajectoryQueue(LAYOUT, batch_size=2, capacity=2)
    queue.insert(trajectories(5, 6))
    sample = queue.sample(1)
    assert sample is not None
    trajectory = sample.trajectory
    assert trajectory.timesteps.observation.shape == [UNROLL + 1, 2, 3]
    assert trajectory.agent_state.frames is None
    assert trajectory.agent_state.core[0].shape == [2, 4]
    np.testing.assert_array_equal(trajectory.agent_state.core[0][:, 0], [5, 6])
    np.testing.assert_array_equal(trajectory.actor_id, [5, 6])
    np.testing.assert_array_equal(sample.importance_weights, [1, 1])
    for b, number in enumerate((5, 6)):
        for t in range(UNROLL + 1):
            assert trajectory.timesteps.observation[t, b].numpy().tolist() == [number, t, -1]
            assert trajectory.act_outputs.logits[t, b].numpy().tolist() == [number, t, -2]
            assert trajectory.timesteps.reward[t, b] == 100 * number + t


def test_a_sample_does_not_change_when_later_trajectories_arrive() -> None:
    queue = TrajectoryQueue(LAYOUT, batch_size=2, capacity=4)
    queue.insert(trajectories(1, 2))
    first = queue.sample(1)
    queue.insert(trajectories(8, 9, 10))
    assert first is not None
    assert numbers(first) == [1, 2]
    np.testing.assert_array_equal(first.trajectory.actor_id, [1, 2])
    np.testing.assert_array_equal(first.trajectory.agent_state.core[0][:, 0], [1, 2])
    np.testing.assert_array_equal(first.trajectory.timesteps.observation[0, :, 0], [1, 2])


def test_a_full_queue_makes_insert_wait_and_a_sample_lets_it_go_on() -> None:
    queue = TrajectoryQueue(LAYOUT, batch_size=2, capacity=2)
    inserting = start(lambda: queue.insert(trajectories(1, 2, 3, 4)))
    inserting.join(0.5)
    assert inserting.is_alive()
    assert queue.fill == 1.0
    assert numbers(queue.sample(1)) == [1, 2]
    inserting.join(5)
    assert not inserting.is_alive()
    assert numbers(queue.sample(1)) == [3, 4]
    assert queue.fill == 0.0


def test_close_releases_an_insert_that_waits() -> None:
    queue = TrajectoryQueue(LAYOUT, batch_size=1, capacity=1)
    inserting = start(lambda: queue.insert(trajectories(1, 2, 3)))
    inserting.join(0.3)
    assert inserting.is_alive()
    queue.close()
    inserting.join(5)
    assert not inserting.is_alive()


def test_an_empty_queue_returns_none_after_the_timeout() -> None:
    queue = TrajectoryQueue(LAYOUT, batch_size=2, capacity=2)
    queue.insert(trajectories(1))  # half a sample
    began = time.monotonic()
    assert queue.sample(0.3) is None
    assert 0.25 < time.monotonic() - began < 3


def test_every_row_of_every_sample_is_a_trajectory_that_was_inserted() -> None:
    queue, rng = TrajectoryQueue(LAYOUT, batch_size=3, capacity=3), np.random.default_rng(1)
    inserted = list(range(1, 61))

    def insert() -> None:
        rest = inserted
        while rest:
            count = int(rng.integers(1, 8))
            queue.insert(trajectories(*rest[:count]))
            rest = rest[count:]

    start(insert)
    sampled: list[int] = []
    while len(sampled) < len(inserted):
        sample = queue.sample(5)
        assert sample is not None
        np.testing.assert_array_equal(sample.trajectory.timesteps.observation[-1, :, 0], numbers(sample))
        sampled += numbers(sample)
    assert sampled == inserted


def test_a_sample_is_used_as_often_as_configured_and_never_twice_in_a_row() -> None:
    queue = TrajectoryQueue(LAYOUT, batch_size=1, capacity=40, sample_reuse=3)
    queue.insert(trajectories(*range(40)))
    sampled: list[int] = []
    new_steps = 0
    for _ in range(3 * 30):
        sample = queue.sample(1)
        assert sample is not None
        sampled += numbers(sample)
        new_steps += sample.num_new_steps
        assert sample.num_new_steps in (0, UNROLL)
        assert (sample.num_new_steps > 0) == (sampled.count(sampled[-1]) == 1)
    assert all(a != b for a, b in itertools.pairwise(sampled))
    assert [sampled.count(number) for number in range(20)] == [3] * 20
    assert new_steps == UNROLL * len(set(sampled))


def test_a_discarded_sample_is_not_used_again() -> None:
    queue = TrajectoryQueue(LAYOUT, batch_size=1, capacity=40, sample_reuse=2)
    queue.insert(trajectories(*range(1, 21)))
    drawn: list[int] = []
    while (sample := queue.sample(0.01)) is not None:
        drawn += numbers(sample)
        if numbers(sample) in ([3], [9]):
            queue.discard(sample, None)
    assert drawn.count(3) == drawn.count(9) == 1
    assert drawn.count(2) == drawn.count(10) == 2
