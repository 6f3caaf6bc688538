"""The replay: which windows are sampled, how often, with which weight, and that they hold what an actor experienced."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import tensorflow as tf

from mlma.core.types import ReplayWindowSpec
from mlma.replay.prioritized_replay import MIN_PRIORITY
from mlma.replay.trajectory_queue import TrajectoryQueue
from tests.support.replays import (
    LAYOUT,
    NUM_ENVS,
    SEQUENCES,
    STEPS,
    CountingActor,
    T,
    decode,
    endless_episode,
    experience_check,
    make_replay,
    sample_from,
)


@pytest.mark.parametrize("compress", [False, True])
def test_windows_of_ape_x_are_consecutive_stacked_and_of_one_episode(compress: bool) -> None:
    replay, actor = make_replay(STEPS, compress=compress), CountingActor()
    seen = set()
    for _ in range(12):
        replay.insert(actor.records(4))
        sample = sample_from(replay)
        check, is_first = experience_check(sample), sample.trajectory.timesteps.is_first.numpy()
        for b in range(64):
            num_steps = int(np.cumprod(~is_first[1:, b]).sum())
            assert num_steps >= 1, "the step into a new episode is not a transition"
            check(range(num_steps + 1), b)
            seen.add((num_steps, int(sample.keys[b]) % T))
    assert seen == {(num_steps, t) for num_steps in (1, 2, 3) for t in range(T)}


@pytest.mark.parametrize("compress", [False, True])
def test_windows_of_r2d2_are_consecutive_of_one_episode_and_have_the_state_of_their_start(compress: bool) -> None:
    replay, actor = make_replay(SEQUENCES, compress=compress), CountingActor(2)
    burn_in, seen = SEQUENCES.burn_in, set()
    for _ in range(12):
        replay.insert(actor.records(4))
        sample = sample_from(replay)
        observation, is_first = (
            sample.trajectory.timesteps.observation.numpy(),
            sample.trajectory.timesteps.is_first.numpy(),
        )
        check = experience_check(sample)
        hidden, cell = (part.numpy() for part in sample.trajectory.agent_state.core)
        for b in range(64):
            first = is_first[:, b]
            learned = int(np.cumprod(~first[burn_in + 1 :]).sum())
            assert learned >= 1
            starts_episode = bool(first[burn_in])
            if starts_episode:  # nothing before it, and a state of zeros
                assert not observation[:burn_in, b].any()
                assert not hidden[b].any() and not cell[b].any()
                assert not first[:burn_in].any()
            else:  # starts with a trajectory; the burn-in is of the same episode
                assert not first[: burn_in + 1].any()
                env, time = observation[0, b].ravel()[0] - 1, sample.trajectory.weights_version[b]
                assert hidden[b].tolist() == [env, time]
                assert (cell[b] == hidden[b] + 0.5).all()
            check(range(burn_in if starts_episode else 0, burn_in + learned + 1), b)
            seen.add((starts_episode, learned))
    assert {starts_episode for starts_episode, _ in seen} == {True, False}
    assert {learned for _, learned in seen} == set(range(1, SEQUENCES.length + 1))


def test_samples_of_impala_are_consecutive_and_stacked_too() -> None:
    queue, actor = TrajectoryQueue(LAYOUT, batch_size=3, capacity=300), CountingActor(3)
    queue.insert(actor.records(20))
    for _ in range(20):
        sample = queue.sample(1.0)
        assert sample is not None
        check, is_first = experience_check(sample), sample.trajectory.timesteps.is_first.numpy()
        for b in range(3):
            bounds = [0, *(np.flatnonzero(is_first[1:, b]) + 1), T + 1]
            for start, end in itertools.pairwise(bounds):  # one episode each
                check(range(start, end), b)


@pytest.mark.parametrize("windows", [STEPS, SEQUENCES])
def test_every_transition_of_every_episode_can_be_sampled(windows: ReplayWindowSpec) -> None:
    replay, actor = make_replay(windows, capacity=100_000, batch_size=256, exponents=(0.0, 0.0)), CountingActor(4)
    replay.insert(actor.records(30))
    expected, sampled = set(), set()
    view = LAYOUT.view(CountingActor(4).records(30))
    for env in range(NUM_ENVS):
        ids = decode(view.timesteps.observation[env::NUM_ENVS, :T])
        first = view.timesteps.is_first[env::NUM_ENVS, 1 : T + 1]
        rows = 30 - 2 * replay._links._depth  # windows of the last ones wait for the trajectories that follow
        expected |= {tuple(ids[:, i, t]) for i in range(rows) for t in range(T) if not first[i, t]}
    for _ in range(60):
        timesteps = sample_from(replay).trajectory.timesteps
        learned = slice(windows.burn_in, windows.burn_in + (1 if windows.every_step else windows.length))
        is_first = timesteps.is_first.numpy()[learned.start + 1 : learned.stop + 1]
        valid = np.cumprod(~is_first, axis=0).astype(bool)
        sampled |= set(map(tuple, decode(timesteps.observation)[:, learned][:, valid].T))
    assert expected <= sampled


def test_the_priorities_of_the_actors_decide_how_often_windows_are_sampled() -> None:
    """Chi-square with 19 degrees of freedom: 43.8 is exceeded once in a thousand times."""
    replay = make_replay(STEPS, batch_size=50, exponents=(0.6, 0.4))
    replay.insert(endless_episode(5))  # 25 steps; windows of the last trajectory wait for the next one
    counts = np.bincount(np.concatenate([sample_from(replay).keys for _ in range(60)]), minlength=25)
    expected = (np.arange(1, 21) + MIN_PRIORITY) ** 0.6
    expected *= 3000 / expected.sum()
    assert counts[20:].sum() == 0
    assert float(np.sum((counts[:20] - expected) ** 2 / expected)) < 43.8


def test_importance_weights_are_those_of_the_paper_over_their_maximum() -> None:
    replay = make_replay(STEPS, batch_size=16, exponents=(0.7, 0.5))
    replay.insert(endless_episode(5))
    sample = sample_from(replay)
    leaves = (np.arange(1, 21) + MIN_PRIORITY) ** 0.7
    probabilities = leaves / leaves.sum()
    weights = [(20 * probabilities[key]) ** -0.5 for key in sample.keys]
    np.testing.assert_allclose(sample.importance_weights, np.array(weights) / max(weights), rtol=1e-5)
    assert float(tf.reduce_max(sample.importance_weights)) == 1


def test_a_sequence_gets_the_mixed_priority_of_the_errors_it_is_learned_from() -> None:
    replay = make_replay(SEQUENCES, exponents=(1.0, 0.0))
    errors = np.random.default_rng(1).random((4, T)).astype(np.float32)
    replay.insert(endless_episode(4, priorities=errors))
    learned = errors.ravel()[4 : 4 + 9]
    mixed = 0.9 * learned.max() + 0.1 * learned.mean()
    assert replay._tree.get(0) == pytest.approx(mixed + MIN_PRIORITY, rel=1e-5)
    assert np.count_nonzero(replay._tree.get(np.arange(4 * T))) == replay._num_windows == 2


def test_updated_priorities_count_and_those_of_overwritten_windows_are_ignored() -> None:
    replay = make_replay(STEPS, capacity=30, batch_size=8, exponents=(1.0, 1.0))
    replay.insert(endless_episode(6))
    old = np.arange(5)  # the windows of the first trajectory
    replay.update_priorities(old, np.full(5, 1000.0))
    assert set(sample_from(replay).keys // T) <= {0, 1, 2, 3, 4}
    assert np.mean(sample_from(replay).keys < 5) > 0.5
    replay.insert(endless_episode(2, start=6))  # overwrites trajectories 0 and 1
    before = replay._tree._nodes.copy()
    replay.update_priorities(old, np.full(5, 7.0))
    np.testing.assert_array_equal(replay._tree._nodes, before)
    assert set(np.concatenate([sample_from(replay).keys for _ in range(20)]) // T) == {2, 3, 4, 5, 6}


def test_the_oldest_trajectories_are_overwritten_again_and_again() -> None:
    replay = make_replay(STEPS, capacity=30, batch_size=64)
    for start in range(0, 60, 3):
        replay.insert(endless_episode(3, start=start))
        assert replay.stored_serials().tolist() == list(range(max(0, start - 3), start + 3))
        serials = np.concatenate([sample_from(replay).keys for _ in range(5)]) // T
        assert serials.min() >= max(0, start - 3) and serials.max() <= start + 1
        assert replay._num_windows == np.count_nonzero(replay._tree.get(np.arange(30)))
    assert replay.fill == 1.0
    assert len(replay._links._latest) == 1


def test_no_window_spans_a_trajectory_that_was_lost() -> None:
    replay = make_replay(STEPS)
    replay.insert(endless_episode(2))
    replay.insert(endless_episode(2, start=3))  # number 2 never arrived
    replay.insert(endless_episode(2, stream=2))  # another environment does not fill the gap
    assert replay._num_windows == 3 * T
    assert set(np.concatenate([sample_from(replay).keys for _ in range(20)]) // T) == {0, 2, 4}


def test_sampling_goes_on_while_trajectories_arrive_and_never_sees_an_incomplete_one() -> None:
    replay, stop = make_replay(STEPS, capacity=60, batch_size=32), threading.Event()
    actor = CountingActor(6)
    records = actor.records(150)

    def insert() -> None:
        for i in range(0, len(records), NUM_ENVS):
            replay.put(records[i : i + NUM_ENVS])
        stop.set()

    replay.insert(records[: 8 * NUM_ENVS])
    thread = threading.Thread(target=insert, daemon=True)
    thread.start()
    samples = 0
    while not stop.is_set() or samples < 20:
        sample = sample_from(replay)
        env, episode, step = decode(sample.trajectory.timesteps.observation)
        is_first = sample.trajectory.timesteps.is_first.numpy()
        for b in range(32):
            steps = slice(int(np.cumprod(~is_first[1:, b]).sum()) + 1)
            assert (np.diff(step[steps, b]) == 1).all()
            assert len(set(zip(env[steps, b], episode[steps, b], strict=True))) == 1
        replay.update_priorities(sample.keys, np.ones(32))
        samples += 1
    thread.join()


def test_steps_are_counted_once_as_new() -> None:
    replay = make_replay(STEPS)
    replay.insert(endless_episode(4))
    assert [sample_from(replay).num_new_steps for _ in range(2)] == [4 * T, 0]
    replay.insert(endless_episode(2, start=4))
    assert sample_from(replay).num_new_steps == 2 * T


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_a_window_whose_new_priority_is_no_priority_is_never_drawn_again(wrong: float) -> None:
    replay = make_replay(STEPS)
    replay.insert(endless_episode(8))
    windows = replay.gauges()["replay/windows"]
    before, keys = windows(), np.unique(sample_from(replay).keys)[:5]
    replay.update_priorities(keys, np.full(5, wrong))
    assert windows() == before - 5
    for _ in range(20):
        sample = sample_from(replay)
        assert not set(sample.keys) & set(keys)
        assert np.isfinite(sample.importance_weights).all()
        replay.update_priorities(sample.keys, np.ones(len(sample.keys)))
    assert windows() == before - 5


def test_a_dropped_sample_loses_the_windows_that_are_to_blame_or_all_if_none_is_known() -> None:
    replay = make_replay(STEPS)
    replay.insert(endless_episode(20))
    sample = sample_from(replay)
    priorities = np.ones(64, np.float32)
    blamed = sample.keys == sample.keys[3]
    priorities[blamed] = np.nan
    replay.discard(sample, priorities)
    before = replay.gauges()["replay/windows"]()
    assert all(sample.keys[3] not in sample_from(replay).keys for _ in range(20))
    sample = sample_from(replay)
    replay.discard(sample, np.ones(64, np.float32))
    assert replay.gauges()["replay/windows"]() == before - len(set(sample.keys))
    assert not set(sample.keys) & set(sample_from(replay).keys)


def test_initial_priorities_that_overflow_make_no_window() -> None:
    replay = make_replay(SEQUENCES)
    replay.insert(endless_episode(8, priorities=np.float32(3e38)))
    assert replay.gauges()["replay/windows"]() == 0
    replay.insert(endless_episode(8, stream=2))
    assert np.isfinite(sample_from(replay).importance_weights).all()


def test_a_sample_names_the_actors_that_collected_it() -> None:
    replay, records = make_replay(STEPS), endless_episode(8)
    LAYOUT.view(records).actor_id[:] = np.arange(8)
    replay.insert(records)
    sample = sample_from(replay)
    assert np.asarray(sample.trajectory.actor_id).tolist() == (sample.keys // T).tolist()
