"""The queue between the transport and the learner: order, shape, back-pressure."""

from __future__ import annotations

import itertools
import threading
import time
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
    """Records in which everything says which trajectory and which step it is."""
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
    assert sample is not None
    return sample.trajectory.weights_version.tolist()


def start(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_trajectories_come_out_in_order_and_once_however_they_went_in() -> None:
    memory = TrajectoryQueue(LAYOUT, batch_size=2, capacity=8)
    for part in ([1], [2, 3, 4], [5, 6, 7], [8]):
        memory.insert(trajectories(*part))
    assert [numbers(memory.sample(1)) for _ in range(4)] == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert memory.sample(0.01) is None


def test_a_sample_is_time_first_and_every_value_at_its_place() -> None:
    memory = TrajectoryQueue(LAYOUT, batch_size=2, capacity=2)
    memory.insert(trajectories(5, 6))
    sample = memory.sample(1)
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
    memory = TrajectoryQueue(LAYOUT, batch_size=2, capacity=4)
    memory.insert(trajectories(1, 2))
    first = memory.sample(1)
    memory.insert(trajectories(8, 9, 10))
    assert first is not None
    assert numbers(first) == [1, 2]
    np.testing.assert_array_equal(first.trajectory.actor_id, [1, 2])
    np.testing.assert_array_equal(first.trajectory.agent_state.core[0][:, 0], [1, 2])
    np.testing.assert_array_equal(first.trajectory.timesteps.observation[0, :, 0], [1, 2])


def test_a_full_queue_makes_insert_wait_and_a_sample_lets_it_go_on() -> None:
    memory = TrajectoryQueue(LAYOUT, batch_size=2, capacity=2)
    inserting = start(lambda: memory.insert(trajectories(1, 2, 3, 4)))
    inserting.join(0.5)
    assert inserting.is_alive()
    assert memory.fill == 1.0
    assert numbers(memory.sample(1)) == [1, 2]
    inserting.join(5)
    assert not inserting.is_alive()
    assert numbers(memory.sample(1)) == [3, 4]
    assert memory.fill == 0.0


def test_close_releases_an_insert_that_waits() -> None:
    memory = TrajectoryQueue(LAYOUT, batch_size=1, capacity=1)
    inserting = start(lambda: memory.insert(trajectories(1, 2, 3)))
    inserting.join(0.3)
    assert inserting.is_alive()
    memory.close()
    inserting.join(5)
    assert not inserting.is_alive()


def test_an_empty_queue_gives_nothing_after_the_time_asked_for() -> None:
    memory = TrajectoryQueue(LAYOUT, batch_size=2, capacity=2)
    memory.insert(trajectories(1))  # half a sample is none
    began = time.monotonic()
    assert memory.sample(0.3) is None
    assert 0.25 < time.monotonic() - began < 3


def test_every_row_of_every_sample_is_a_trajectory_that_was_inserted() -> None:
    memory, rng = TrajectoryQueue(LAYOUT, batch_size=3, capacity=3), np.random.default_rng(1)
    inserted = list(range(1, 61))

    def insert() -> None:
        rest = inserted
        while rest:
            count = int(rng.integers(1, 8))
            memory.insert(trajectories(*rest[:count]))
            rest = rest[count:]

    start(insert)
    found: list[int] = []
    while len(found) < len(inserted):
        sample = memory.sample(5)
        assert sample is not None
        np.testing.assert_array_equal(sample.trajectory.timesteps.observation[-1, :, 0], numbers(sample))
        found += numbers(sample)
    assert found == inserted


def test_a_trajectory_is_given_out_as_often_as_asked_and_never_twice_in_a_row() -> None:
    memory = TrajectoryQueue(LAYOUT, batch_size=1, capacity=40, uses=3)
    memory.insert(trajectories(*range(40)))
    given: list[int] = []
    new = 0
    for _ in range(3 * 30):
        sample = memory.sample(1)
        assert sample is not None
        given += numbers(sample)
        new += sample.num_new_steps
        assert sample.num_new_steps in (0, UNROLL)
        assert (sample.num_new_steps > 0) == (given.count(given[-1]) == 1)
    assert all(a != b for a, b in itertools.pairwise(given))
    assert [given.count(number) for number in range(20)] == [3] * 20
    assert new == UNROLL * len(set(given))
