"""The replay on disk and in memory: snapshots, compression, and the check that it fits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mlma.core.record_layout import trajectory_spec
from mlma.core.types import ArraySpec, EnvSpec, NetworkState, ReplayWindowSpec
from mlma.replay import trajectory_store
from mlma.replay.snapshot import ReplaySnapshot, read_snapshot, write_snapshot
from mlma.replay.trajectory_store import TrajectoryStore, check_fits
from mlma.utils.memory import available_memory
from tests.support.replays import (
    LAYOUT,
    SEQUENCES,
    STEPS,
    CountingActor,
    T,
    endless_episode,
    experience_check,
    make_replay,
    sample_from,
)


@pytest.mark.parametrize("windows", [STEPS, SEQUENCES])
def test_a_replay_is_restored_with_its_frames_states_and_priorities(
    tmp_path: Path, windows: ReplayWindowSpec, log_lines: Callable[[], list[str]]
) -> None:
    replay, actor = make_replay(windows, capacity=300), CountingActor(7)
    replay.insert(actor.records(30))
    for _ in range(5):
        keys = sample_from(replay).keys
        replay.update_priorities(keys, np.random.default_rng(1).random(len(keys)))
    snapshot = ReplaySnapshot(replay, tmp_path / "replay.bin")
    snapshot.save()
    snapshot.wait()
    restored = make_replay(windows, capacity=300)
    ReplaySnapshot(restored, tmp_path / "replay.bin").restore()
    assert any("saved" in line for line in log_lines()) and "restored" in log_lines()[-1]
    shift = replay.stored_serials()[0] % replay._slots * T  # the oldest trajectory is in slot 0 of the restored one
    leaves = (np.arange(300) + shift) % 300
    np.testing.assert_allclose(restored._tree.get(np.arange(300)), replay._tree.get(leaves), rtol=1e-12)
    sample = sample_from(restored)
    assert sample.num_new_steps == 0, "restored steps were counted by the run before"
    check, is_first = experience_check(sample), sample.trajectory.timesteps.is_first.numpy()
    for b in range(64):
        start = windows.burn_in if is_first[windows.burn_in, b] else 0
        last = windows.burn_in + int(np.cumprod(~is_first[windows.burn_in + 1 :, b]).sum())
        check(range(start, last + 1), b)


@pytest.mark.parametrize("compress", [False, True])
def test_a_smaller_replay_takes_the_newest_trajectories_of_a_snapshot(tmp_path: Path, compress: bool) -> None:
    replay, actor = make_replay(STEPS, capacity=300), CountingActor(7)
    replay.insert(actor.records(30))
    write_snapshot(replay, tmp_path / "replay.bin")
    restored = make_replay(STEPS, capacity=50, compress=compress)
    for _ in range(2):  # as if the snapshot had a second block, which overwrites the first one
        assert read_snapshot(restored, tmp_path / "replay.bin") == 300
    newest = make_replay(STEPS, capacity=50)
    newest.insert(actor_records := replay.read(replay.stored_serials()[-10:])[0])
    assert len(actor_records) == 10
    for other in (restored, newest):
        assert other._num_windows == np.count_nonzero(other._tree.get(np.arange(50))) > 0
    assert restored._num_windows == newest._num_windows
    sample = sample_from(restored)
    assert np.isfinite(sample.importance_weights.numpy()).all()
    check = experience_check(sample)
    for b in range(64):
        check(range(1), b)


def test_windows_that_were_removed_stay_so_in_a_snapshot(tmp_path: Path) -> None:
    replay = make_replay(STEPS, capacity=100, batch_size=4)
    replay.insert(endless_episode(10))
    before, bad = replay._num_windows, sample_from(replay)
    replay.discard(bad, np.full(4, np.nan))
    removed = before - replay._num_windows
    assert removed > 0
    write_snapshot(replay, tmp_path / "replay.bin")
    restored = make_replay(STEPS, capacity=100)
    read_snapshot(restored, tmp_path / "replay.bin")
    np.testing.assert_allclose(restored._tree.get(np.arange(100)), replay._tree.get(np.arange(100)))
    assert restored._num_windows == replay._num_windows


def test_a_snapshot_of_another_run_or_a_damaged_one_is_left_alone(
    tmp_path: Path, log_lines: Callable[[], list[str]]
) -> None:
    path = tmp_path / "replay.bin"
    replay = make_replay(STEPS)
    replay.insert(endless_episode(5))
    write_snapshot(replay, path)
    data = path.read_bytes()
    for damaged in (data[:-3], data[:-3] + b"abc", b"{}\n" + data, b"\xff\n", b""):
        path.write_bytes(damaged)
        ReplaySnapshot(make_replay(STEPS), path).restore()
        assert "the replay fills again" in log_lines()[-1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_previous_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_lines: Callable[[], list[str]]
) -> None:
    path = tmp_path / "replay.bin"
    replay = make_replay(STEPS)
    replay.insert(endless_episode(5))
    write_snapshot(replay, path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    snapshot = ReplaySnapshot(replay, path)
    snapshot.save()
    snapshot.wait()
    assert "could not save the replay: No space left" in log_lines()[-1]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_replay_that_does_not_fit_is_refused_with_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory_store, "available_memory", lambda: 1e6)
    check_fits(LAYOUT.spec, 1000, compress=False, copies=1)
    message = r"--replay_capacity=100000: 2 x 100,000 steps of \d+ bytes need .* GB are free; at most"
    with pytest.raises(ValueError, match=message):
        check_fits(LAYOUT.spec, 100_000, compress=False, copies=2)


def test_the_available_memory_is_known() -> None:
    assert 1e7 < available_memory() < 1e14


def test_frames_are_stored_once_and_compression_is_lossless_and_reported() -> None:
    plain, compressed, actor = make_replay(STEPS), make_replay(STEPS, compress=True), CountingActor(8)
    records = actor.records(20)
    plain.insert(records)
    compressed.insert(records)
    atari, state = EnvSpec(ArraySpec((84, 84, 1), "uint8"), 6, 4), np.zeros((1, 3, 84, 84, 1), np.uint8)
    atari_spec = trajectory_spec(atari, NetworkState(state, None), 64, True)
    per_step = TrajectoryStore(atari_spec, 1, compress=False).bytes_of_slots(1) / 64
    assert per_step < 1.1 * 84 * 84, "not the four frames of a stack"
    for replay in (plain, compressed):
        replay._rng = np.random.default_rng(1)
    samples = sample_from(plain), sample_from(compressed)
    for one, two in zip(tf.nest.flatten(samples[0]), tf.nest.flatten(samples[1]), strict=True):
        np.testing.assert_array_equal(one, two)
    assert compressed.gauges()["replay/bytes_per_step"]() > 0
