"""The replay: what is drawn, how often, with which weight; what is gone; and that a window is what an actor lived through."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.networks.frame_stack import stack_frames
from agents.ops.value_learning import sequence_priorities
from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.record_layout import RecordLayout, trajectory_spec
from mlma.core.types import ActOutput, ArraySpec, EnvSpec, NetworkState, ReplayWindowSpec, Sample, TimeStep
from mlma.replay import trajectory_store
from mlma.replay.prioritized_replay import MIN_PRIORITY, PrioritizedReplay
from mlma.replay.rate_limiter import RateLimiter
from mlma.replay.snapshot import ReplaySnapshot, write_snapshot
from mlma.replay.trajectory_queue import TrajectoryQueue
from mlma.replay.trajectory_store import TrajectoryStore, available_memory, check_fits

SPEC = EnvSpec(
    ArraySpec((2, 2, 1), "uint8"), num_actions=200, action_repeats=1
)  # a frame says who, which game, which step
ENVS, STACK, T = 3, 4, 5
STATE = NetworkState(
    np.zeros((1, STACK - 1, 2, 2, 1), np.uint8), (np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
)
LAYOUT = RecordLayout(trajectory_spec(SPEC, STATE, T, errors=True))
STEPS, SEQUENCES = (
    ReplayWindowSpec(every_step=True, burn_in=0, length=3),
    ReplayWindowSpec(every_step=False, burn_in=4, length=9),
)


class Counting:
    """Games of 1 to 14 steps, some truncated. The action taken from step s is s, the reward that arrives with it is s too."""

    def __init__(self, seed: int = 1) -> None:
        self._rng = np.random.default_rng(seed)
        self._game, self._step = np.zeros(ENVS, int), np.zeros(ENVS, int)
        self._length = self._rng.integers(1, 15, size=ENVS)
        self._trajectories = TrajectoryWriter(
            LAYOUT, ENVS, T, task=0, places=np.arange(ENVS), seed=100 * seed, errors=self._errors
        )
        self._frames = tf.zeros([ENVS, STACK - 1, 2, 2, 1], tf.uint8)
        self._time = 0

    def _errors(self, steps: TimeStep, acted: ActOutput) -> Any:
        return tf.cast(acted.action[:-1] + 1, tf.float32)

    def _timestep(self) -> TimeStep:
        first, over = self._step == 0, self._step == self._length
        frame = np.stack([np.arange(ENVS) + 1, self._game % 250 + 1, self._step + 1, np.full(ENVS, 7)], axis=1)
        truncated = self._game % 3 == 0
        return TimeStep(
            frame.reshape(ENVS, 2, 2, 1).astype(np.uint8), self._step.astype(np.float32) * ~first,
            1 - (over & ~truncated).astype(np.float32), first, np.where(first, 0, self._step - 1).astype(np.int32),
            np.where(over, 1.0, np.nan).astype(np.float32), np.where(over, self._step, 0).astype(np.int32),
        )  # fmt: skip

    def records(self, count: int) -> Any:
        """What `count` messages of an actor bring."""
        found: list[bytes] = []
        while len(found) < count:
            step = self._timestep()
            _, after = stack_frames(tf.constant(step.observation[None]), tf.constant(step.is_first[None]), self._frames)
            core = np.stack([np.arange(ENVS), np.full(ENVS, self._time)], axis=1).astype(
                np.float32
            )  # the state says when
            state = NetworkState(self._frames, (core, core + 0.5))
            acted = ActOutput(
                self._step.astype(np.int32), np.zeros((ENVS, 200), np.float32), np.zeros(ENVS, np.float32)
            )
            if self._trajectories.add(step, acted, state, weights_version=self._time):
                found += [bytes(payload) for payload in self._trajectories.messages()]
                self._trajectories.add(step, acted, state, self._time)
            self._frames, self._time = after, self._time + 1
            ended = self._step == self._length
            self._game, self._step = self._game + ended, np.where(ended, 0, self._step + 1)
            self._length = np.where(ended, self._rng.integers(1, 15, size=ENVS), self._length)
        return LAYOUT.from_bytes(b"".join(found))


PRIORITIES = functools.partial(sequence_priorities, eta=0.9)


class Unpaced(RateLimiter):
    """Nobody waits for anybody."""

    def __init__(self) -> None:
        super().__init__(0.0, 0, 1)

    def wait_to_insert(self) -> bool:
        return True

    def wait_to_sample(self, timeout: float) -> bool:
        return True


def make(
    windows: ReplayWindowSpec, capacity: int = 600, batch: int = 64, pace: RateLimiter | None = None, **more: Any
) -> Any:
    exponents = more.pop("exponents", (0.6, 0.4))
    return PrioritizedReplay(LAYOUT, windows, pace or Unpaced(), capacity, batch, exponents, PRIORITIES, seed=5, **more)


def drawn(memory: Any) -> Sample:
    sample = memory.sample(1.0)
    assert sample is not None
    return sample


def who(frames: Any) -> Any:
    """[..., 2, 2, 1] -> env, game, step, each one more than it is; zeros where nothing is."""
    return np.moveaxis(np.asarray(frames).reshape(*frames.shape[:-3], 4)[..., :3], -1, 0).astype(int)


def check_lived(steps: Any, action: Any, frames: Any, used: Any, b: int) -> None:
    """The steps `used` of window b follow each other within one game, stacked right, with their own rewards and actions."""
    stacks, _ = stack_frames(tf.constant(steps.observation), tf.constant(steps.is_first), tf.constant(frames))
    env, game, step = who(steps.observation)
    for t in used:
        assert (env[t, b], game[t, b], step[t, b]) == (
            env[used[0], b],
            game[used[0], b],
            step[used[0], b] + t - used[0],
        )
        assert bool(steps.is_first[t, b]) == (step[t, b] == 1)
        assert steps.reward[t, b] == step[t, b] - 1
        assert action[t, b] == step[t, b] - 1
        for age in range(STACK):  # newest frame last
            seen = np.asarray(stacks[t, b, ..., STACK - 1 - age]).ravel()
            wanted = [env[t, b], game[t, b], step[t, b] - age, 7] if step[t, b] - age >= 1 else [0, 0, 0, 0]
            assert seen.tolist() == wanted, (t, b, age)


@pytest.mark.parametrize("compress", [False, True])
def test_what_ape_x_is_given_is_consecutive_stacked_and_of_one_game(compress: bool) -> None:
    memory, actor = make(STEPS, compress=compress), Counting()
    seen = set()
    for _ in range(12):
        memory.insert(actor.records(4))
        sample = drawn(memory)
        steps, action = sample.trajectory.timesteps, sample.trajectory.act_outputs.action
        for b in range(64):
            ends = int(np.cumprod(~steps.is_first.numpy()[1:, b]).sum())
            assert ends >= 1, "the step into a new game is no transition"
            check_lived(steps, action, sample.trajectory.agent_state.frames, range(ends + 1), b)
            seen.add((ends, int(sample.keys[b]) % T))
    assert seen == {(ends, t) for ends in (1, 2, 3) for t in range(T)}


@pytest.mark.parametrize("compress", [False, True])
def test_what_r2d2_is_given_is_consecutive_of_one_game_and_has_the_state_of_its_start(compress: bool) -> None:
    memory, actor = make(SEQUENCES, compress=compress), Counting(2)
    burn_in, kinds = SEQUENCES.burn_in, set()
    for _ in range(12):
        memory.insert(actor.records(4))
        sample = drawn(memory)
        steps, action = sample.trajectory.timesteps, sample.trajectory.act_outputs.action
        hidden, cell = (part.numpy() for part in sample.trajectory.agent_state.core)
        for b in range(64):
            first = steps.is_first.numpy()[:, b]
            learned = int(np.cumprod(~first[burn_in + 1 :]).sum())
            assert learned >= 1
            opens = bool(first[burn_in])
            if opens:  # with a game: nothing before it, a state of zeros
                assert not steps.observation.numpy()[:burn_in, b].any()
                assert not hidden[b].any() and not cell[b].any()
                assert not first[:burn_in].any()
            else:  # with a trajectory, burn-in and all in one game
                assert not first[: burn_in + 1].any()
                assert hidden[b].tolist() == [
                    steps.observation[0, b].numpy().ravel()[0] - 1,
                    sample.trajectory.weights_version[b],
                ]
                assert (cell[b] == hidden[b] + 0.5).all()
            start = burn_in if opens else 0
            check_lived(steps, action, sample.trajectory.agent_state.frames, range(start, burn_in + learned + 1), b)
            kinds.add((opens, learned))
    assert {opens for opens, _ in kinds} == {True, False}
    assert {learned for _, learned in kinds} == set(range(1, SEQUENCES.length + 1))


def test_what_impala_is_given_is_consecutive_and_stacked_too() -> None:
    memory, actor = TrajectoryQueue(LAYOUT, batch_size=3, capacity=300), Counting(3)
    memory.insert(actor.records(20))
    for _ in range(20):
        sample = memory.sample(1.0)
        assert sample is not None
        steps = sample.trajectory.timesteps
        for b in range(3):
            bounds = [0, *(np.flatnonzero(steps.is_first.numpy()[1:, b]) + 1), T + 1]
            for begin, end in itertools.pairwise(bounds):  # one game each
                check_lived(
                    steps,
                    sample.trajectory.act_outputs.action,
                    sample.trajectory.agent_state.frames,
                    range(begin, end),
                    b,
                )


@pytest.mark.parametrize("windows", [STEPS, SEQUENCES])
def test_every_transition_of_every_game_can_be_drawn(windows: ReplayWindowSpec) -> None:
    memory, actor = make(windows, capacity=100_000, batch=256, exponents=(0.0, 0.0)), Counting(4)
    memory.insert(actor.records(30))
    wanted, found = set(), set()
    for env in range(ENVS):
        view = LAYOUT.view(Counting(4).records(30))
        ids, first = who(view.timesteps.observation[env::ENVS, :T]), view.timesteps.is_first[env::ENVS, 1 : T + 1]
        rows = 30 - 2 * memory._depth  # the last ones wait for what comes after them
        wanted |= {tuple(ids[:, i, t]) for i in range(rows) for t in range(T) if not first[i, t]}
    for _ in range(60):
        steps = drawn(memory).trajectory.timesteps
        learned = slice(windows.burn_in, windows.burn_in + (1 if windows.every_step else windows.length))
        alive = np.cumprod(~steps.is_first.numpy()[learned.start + 1 : learned.stop + 1], axis=0).astype(bool)
        found |= set(map(tuple, who(steps.observation)[:, learned][:, alive].T))
    assert wanted <= found


def numbered(count: int, stream: int = 1, errors: Any = None, start: int = 0) -> Any:
    """Trajectories of one endless game."""
    records = LAYOUT.empty(count)
    view = LAYOUT.view(records)
    view.env_stream_id[:], view.sequence_number[:] = stream, np.arange(start, start + count)
    view.initial_priorities[:] = np.arange(1, count * T + 1).reshape(count, T) if errors is None else errors
    return records


def test_the_priorities_of_the_actors_decide_how_often_windows_are_drawn() -> None:
    """Chi-square with 19 degrees of freedom: 43.8 is passed once in a thousand times."""
    memory = make(STEPS, batch=50, exponents=(0.6, 0.4))
    memory.insert(numbered(5))  # 25 steps; those of the last trajectory wait for what comes after
    counts = np.bincount(np.concatenate([drawn(memory).keys for _ in range(60)]), minlength=25)
    wanted = (np.arange(1, 21) + MIN_PRIORITY) ** 0.6
    wanted *= 3000 / wanted.sum()
    assert counts[20:].sum() == 0
    assert float(np.sum((counts[:20] - wanted) ** 2 / wanted)) < 43.8


def test_importance_weights_are_those_of_the_paper_over_their_maximum() -> None:
    memory = make(STEPS, batch=16, exponents=(0.7, 0.5))
    memory.insert(numbered(5))
    sample = drawn(memory)
    leaves = (np.arange(1, 21) + MIN_PRIORITY) ** 0.7
    noise_generator = leaves / leaves.sum()
    weights = [(20 * noise_generator[key]) ** -0.5 for key in sample.keys]
    np.testing.assert_allclose(sample.importance_weights, np.array(weights) / max(weights), rtol=1e-5)
    assert float(tf.reduce_max(sample.importance_weights)) == 1


def test_a_sequence_gets_the_mixed_priority_of_the_errors_it_is_learned_from() -> None:
    memory = make(SEQUENCES, exponents=(1.0, 0.0))
    errors = np.random.default_rng(1).random((4, T)).astype(np.float32)
    memory.insert(numbered(4, errors=errors))
    part = errors.ravel()[4 : 4 + 9]
    assert memory._tree.get(0) == pytest.approx(0.9 * part.max() + 0.1 * part.mean() + MIN_PRIORITY, rel=1e-5)
    assert np.count_nonzero(memory._tree.get(np.arange(4 * T))) == memory._windows_held == 2


def test_updated_priorities_count_and_those_of_what_is_gone_are_ignored() -> None:
    memory = make(STEPS, capacity=30, batch=8, exponents=(1.0, 1.0))
    memory.insert(numbered(6))
    old = np.arange(5)  # the windows of the first trajectory
    memory.update_priorities(old, np.full(5, 1000.0))
    assert set(drawn(memory).keys // T) <= {0, 1, 2, 3, 4}
    assert np.mean(drawn(memory).keys < 5) > 0.5
    memory.insert(numbered(2, start=6))  # overwrites trajectories 0 and 1
    before = memory._tree._nodes.copy()
    memory.update_priorities(old, np.full(5, 7.0))
    np.testing.assert_array_equal(memory._tree._nodes, before)
    assert set(np.concatenate([drawn(memory).keys for _ in range(20)]) // T) == {2, 3, 4, 5, 6}


def test_the_oldest_go_first_round_and_round() -> None:
    memory = make(STEPS, capacity=30, batch=64)
    for start in range(0, 60, 3):
        memory.insert(numbered(3, start=start))
        assert memory.held().tolist() == list(range(max(0, start - 3), start + 3))
        keys = np.concatenate([drawn(memory).keys for _ in range(5)]) // T
        assert keys.min() >= max(0, start - 3) and keys.max() <= start + 1
        assert memory._windows_held == np.count_nonzero(memory._tree.get(np.arange(30)))
    assert memory.fill == 1.0
    assert len(memory._latest) == 1


def test_a_trajectory_that_was_lost_on_the_way_is_no_bridge() -> None:
    memory = make(STEPS)
    memory.insert(numbered(2))
    memory.insert(numbered(2, start=3))  # number 2 never came
    memory.insert(numbered(2, stream=2))  # and another environment goes nowhere near
    assert memory._windows_held == 3 * T
    assert set(np.concatenate([drawn(memory).keys for _ in range(20)]) // T) == {0, 2, 4}


def test_sampling_goes_on_while_trajectories_come_and_never_sees_half_of_one() -> None:
    memory, stop = make(STEPS, capacity=60, batch=32), threading.Event()
    actor = Counting(6)
    records = actor.records(150)

    def insert() -> None:
        for i in range(0, len(records), ENVS):
            memory.put(records[i : i + ENVS])
        stop.set()

    memory.insert(records[: 8 * ENVS])
    thread = threading.Thread(target=insert, daemon=True)
    thread.start()
    samples = 0
    while not stop.is_set() or samples < 20:
        sample = drawn(memory)
        env, game, step = who(sample.trajectory.timesteps.observation)
        for b in range(32):
            ends = int(np.cumprod(~sample.trajectory.timesteps.is_first.numpy()[1:, b]).sum())
            assert (np.diff(step[: ends + 1, b]) == 1).all()
            assert len(set(zip(env[: ends + 1, b], game[: ends + 1, b], strict=True))) == 1
        memory.update_priorities(sample.keys, np.ones(32))
        samples += 1
    thread.join()


def test_steps_are_counted_once_as_new() -> None:
    memory = make(STEPS)
    memory.insert(numbered(4))
    assert [drawn(memory).num_new_steps for _ in range(2)] == [4 * T, 0]
    memory.insert(numbered(2, start=4))
    assert drawn(memory).num_new_steps == 2 * T


# -- pace


def test_samples_wait_for_the_fill_and_then_for_their_ratio(log_lines: Callable[[], list[str]]) -> None:
    pace = RateLimiter(2.0, 100, 50)
    pace.inserted(99)
    assert not pace.wait_to_sample(0.01)
    pace.inserted(1)
    assert log_lines() == ["replay holds 100 steps; learning begins at 100"]
    assert not pace.wait_to_sample(0.01), "the fill buys no samples"
    pace.inserted(24)
    assert not pace.wait_to_sample(0.01)
    pace.inserted(1)
    assert pace.wait_to_sample(0.01)
    pace.sampled()
    assert not pace.wait_to_sample(0.01)
    assert pace.ratio == 2.0


def test_actors_wait_for_a_slow_learner_and_go_on_with_it_and_at_the_end() -> None:
    pace = RateLimiter(1.0, 0, 10)
    pace.inserted(1)
    pace.inserted(30)
    waiting = threading.Thread(target=pace.wait_to_insert, daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    pace.sampled()
    pace.sampled()
    waiting.join(5)
    assert not waiting.is_alive()
    pace.inserted(30)
    again = threading.Thread(target=pace.wait_to_insert, daemon=True)
    again.start()
    pace.close()
    again.join(5)
    assert not again.is_alive()
    assert not pace.wait_to_insert()


@pytest.mark.parametrize("ratio", [0.5, 4.0])
def test_the_ratio_is_kept_whoever_is_faster(ratio: float) -> None:
    for slow in ("learner", "actors"):
        pace = RateLimiter(ratio, 20, 10)
        memory = make(STEPS, capacity=500, batch=10, pace=pace)
        done = threading.Event()

        def insert(memory: Any = memory, slow: str = slow, done: Any = done) -> None:
            for start in range(0, 400, 2):
                memory.insert(numbered(2, start=start))
                if done.wait(0.002 if slow == "actors" else 0):
                    return

        threading.Thread(target=insert, daemon=True).start()
        for _ in range(60):
            drawn(memory)
            time.sleep(0.004 if slow == "learner" else 0)
        done.set()
        memory.close()
        assert pace.ratio == pytest.approx(ratio, rel=0.3)


# -- on disk, and in memory


@pytest.mark.parametrize("windows", [STEPS, SEQUENCES])
def test_a_replay_comes_back_with_its_frames_states_and_priorities(
    tmp_path: Path, windows: ReplayWindowSpec, log_lines: Callable[[], list[str]]
) -> None:
    memory, actor = make(windows, capacity=300), Counting(7)
    memory.insert(actor.records(30))
    for _ in range(5):
        keys = drawn(memory).keys
        memory.update_priorities(keys, np.random.default_rng(1).random(len(keys)))
    saved = ReplaySnapshot(memory, tmp_path / "replay.bin")
    saved.save()
    saved.wait()
    other = make(windows, capacity=300)
    ReplaySnapshot(other, tmp_path / "replay.bin").restore()
    assert any("saved" in line for line in log_lines()) and "restored" in log_lines()[-1]
    shift = memory.held()[0] % memory._slots * T  # the oldest lies first in the other one
    leaves = (np.arange(300) + shift) % 300
    np.testing.assert_allclose(other._tree.get(np.arange(300)), memory._tree.get(leaves), rtol=1e-12)
    sample = drawn(other)
    assert sample.num_new_steps == 0, "what is restored was counted by the run before"
    steps = sample.trajectory.timesteps
    for b in range(64):
        start = windows.burn_in if steps.is_first[windows.burn_in, b] else 0
        ends = windows.burn_in + int(np.cumprod(~steps.is_first.numpy()[windows.burn_in + 1 :, b]).sum())
        check_lived(
            steps, sample.trajectory.act_outputs.action, sample.trajectory.agent_state.frames, range(start, ends + 1), b
        )


def test_a_saved_replay_of_something_else_or_broken_is_left_alone(
    tmp_path: Path, log_lines: Callable[[], list[str]]
) -> None:
    path = tmp_path / "replay.bin"
    memory = make(STEPS)
    memory.insert(numbered(5))
    write_snapshot(memory, path)
    data = path.read_bytes()
    for broken in (data[:-3], data[:-3] + b"abc", b"{}\n" + data, b"\xff\n", b""):
        path.write_bytes(broken)
        ReplaySnapshot(make(STEPS), path).restore()
        assert "the replay fills again" in log_lines()[-1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_replay_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_lines: Callable[[], list[str]]
) -> None:
    path = tmp_path / "replay.bin"
    memory = make(STEPS)
    memory.insert(numbered(5))
    write_snapshot(memory, path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    shard = ReplaySnapshot(memory, path)
    shard.save()
    shard.wait()
    assert "could not save the replay: No space left" in log_lines()[-1]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_replay_that_does_not_fit_is_refused_with_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory_store, "available_memory", lambda: 1e6)
    check_fits(LAYOUT.spec, 1000, compress=False, copies=1)
    with pytest.raises(
        ValueError, match=r"--replay_capacity=100000: 2 x 100,000 steps of \d+ bytes need .* GB are free; at most"
    ):
        check_fits(LAYOUT.spec, 100_000, compress=False, copies=2)


def test_the_memory_that_is_free_is_known() -> None:
    assert 1e7 < available_memory() < 1e14


def test_frames_are_kept_once_and_compression_is_without_loss_and_reported() -> None:
    plain, packed, actor = make(STEPS), make(STEPS, compress=True), Counting(8)
    records = actor.records(20)
    plain.insert(records)
    packed.insert(records)
    big = trajectory_spec(
        EnvSpec(ArraySpec((84, 84, 1), "uint8"), 6, 4),
        NetworkState(np.zeros((1, 3, 84, 84, 1), np.uint8), None),
        64,
        True,
    )
    per_step = TrajectoryStore(big, 1, compress=False).bytes_of_slots(1) / 64
    assert per_step < 1.1 * 84 * 84, "not the four of a stack"
    for memory in (plain, packed):
        memory._rng = np.random.default_rng(1)
    for one, two in zip(tf.nest.flatten(drawn(plain)), tf.nest.flatten(drawn(packed)), strict=True):
        np.testing.assert_array_equal(one, two)
    assert packed.gauges()["replay/bytes_per_step"]() > 0
