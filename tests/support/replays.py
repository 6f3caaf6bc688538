"""Replays for tests, and an actor whose frames identify their environment, episode and step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from agents.networks.frame_stack import stack_frames
from agents.ops import value_learning
from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.record_layout import RecordLayout, trajectory_spec
from mlma.core.types import ActOutput, ArraySpec, EnvSpec, NetworkState, ReplayWindowSpec, Sample, TimeStep
from mlma.replay.prioritized_replay import PrioritizedReplay
from mlma.replay.rate_limiter import RateLimiter

SPEC = EnvSpec(ArraySpec((2, 2, 1), "uint8"), num_actions=200, action_repeats=1)
NUM_ENVS, STACK, T = 3, 4, 5
CORE = (np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
STATE = NetworkState(np.zeros((1, STACK - 1, 2, 2, 1), np.uint8), CORE)
LAYOUT = RecordLayout(trajectory_spec(SPEC, STATE, T, with_priorities=True))
STEPS = ReplayWindowSpec(every_step=True, burn_in=0, length=3)
SEQUENCES = ReplayWindowSpec(every_step=False, burn_in=4, length=9)


class CountingActor:
    """Plays episodes of 1 to 14 steps, some truncated.

    A frame holds environment, episode and step. The action taken from step s is s, and so is the reward that arrives
    with it.
    """

    def __init__(self, seed: int = 1) -> None:
        self._rng = np.random.default_rng(seed)
        self._episode, self._step = np.zeros(NUM_ENVS, int), np.zeros(NUM_ENVS, int)
        self._length = self._rng.integers(1, 15, size=NUM_ENVS)
        self._writer = TrajectoryWriter(LAYOUT, NUM_ENVS, T, 0, np.arange(NUM_ENVS), 100 * seed, self._priorities)
        self._frames = tf.zeros([NUM_ENVS, STACK - 1, 2, 2, 1], tf.uint8)
        self._time = 0

    def _priorities(self, timesteps: TimeStep, acted: ActOutput) -> Any:
        return tf.cast(acted.action[:-1] + 1, tf.float32)

    def _timestep(self) -> TimeStep:
        first, last = self._step == 0, self._step == self._length
        frame = np.stack(
            [np.arange(NUM_ENVS) + 1, self._episode % 250 + 1, self._step + 1, np.full(NUM_ENVS, 7)], axis=1
        )
        truncated = self._episode % 3 == 0
        return TimeStep(
            observation=frame.reshape(NUM_ENVS, 2, 2, 1).astype(np.uint8),
            reward=self._step.astype(np.float32) * ~first,
            discount=1 - (last & ~truncated).astype(np.float32),
            is_first=first,
            last_action=np.where(first, 0, self._step - 1).astype(np.int32),
            episode_return=np.where(last, 1.0, np.nan).astype(np.float32),
            episode_frames=np.where(last, self._step, 0).astype(np.int32),
        )

    def records(self, num_messages: int) -> Any:
        """The records of the next `num_messages` messages."""
        messages: list[bytes] = []
        while len(messages) < num_messages:
            timestep = self._timestep()
            _, after = stack_frames(
                tf.constant(timestep.observation[None]), tf.constant(timestep.is_first[None]), self._frames
            )
            core = np.stack([np.arange(NUM_ENVS), np.full(NUM_ENVS, self._time)], axis=1).astype(np.float32)
            state = NetworkState(self._frames, (core, core + 0.5))  # holds environment and time
            logits, value = np.zeros((NUM_ENVS, SPEC.num_actions), np.float32), np.zeros(NUM_ENVS, np.float32)
            acted = ActOutput(self._step.astype(np.int32), logits, value)
            if self._writer.add(timestep, acted, state, weights_version=self._time):
                messages += [bytes(payload) for payload in self._writer.messages()]
                self._writer.add(timestep, acted, state, self._time)
            self._frames, self._time = after, self._time + 1
            ended = self._step == self._length
            self._episode, self._step = self._episode + ended, np.where(ended, 0, self._step + 1)
            self._length = np.where(ended, self._rng.integers(1, 15, size=NUM_ENVS), self._length)
        return LAYOUT.from_bytes(b"".join(messages))


def endless_episode(count: int, stream: int = 1, priorities: Any = None, start: int = 0) -> Any:
    """Records of `count` consecutive trajectories of one endless episode, from sequence number `start` on."""
    records = LAYOUT.empty(count)
    view = LAYOUT.view(records)
    view.env_stream_id[:], view.sequence_number[:] = stream, np.arange(start, start + count)
    default = np.arange(1, count * T + 1).reshape(count, T)
    view.initial_priorities[:] = default if priorities is None else priorities
    return records


class Unlimited(RateLimiter):
    """A rate limiter that never makes anyone wait."""

    def __init__(self) -> None:
        super().__init__(0.0, 0, 1)

    def wait_to_insert(self) -> bool:
        return True

    def wait_to_sample(self, timeout: float) -> bool:
        return True


def make_replay(
    windows: ReplayWindowSpec,
    capacity: int = 600,
    batch_size: int = 64,
    rate_limiter: RateLimiter | None = None,
    exponents: tuple[float, float] = (0.6, 0.4),
    compress: bool = False,
) -> PrioritizedReplay:
    """A replay of `capacity` steps for records of LAYOUT."""
    priorities = functools.partial(value_learning.sequence_priorities, eta=0.9)
    limiter = rate_limiter or Unlimited()
    return PrioritizedReplay(LAYOUT, windows, limiter, capacity, batch_size, exponents, priorities, 5, compress)


def sample_from(replay: PrioritizedReplay) -> Sample:
    """The next sample, which must be available."""
    sample = replay.sample(1.0)
    assert sample is not None
    return sample


def decode(frames: Any) -> Any:
    """Frames [..., 2, 2, 1] of a CountingActor -> (environment, episode, step), each plus 1; zeros for empty frames."""
    return np.moveaxis(np.asarray(frames).reshape(*frames.shape[:-3], 4)[..., :3], -1, 0).astype(int)


def experience_check(sample: Sample) -> Callable[[range, int], None]:
    """A function that asserts that steps of window b are consecutive ones of an episode of a CountingActor.

    Frame stacks, rewards and actions must be those of the steps.
    """
    timesteps, frames = sample.trajectory.timesteps, tf.constant(sample.trajectory.agent_state.frames)
    stacked, _ = stack_frames(tf.constant(timesteps.observation), tf.constant(timesteps.is_first), frames)
    # Arrays once for all windows: an element of a tensor takes a thousand times as long.
    stacks, action = stacked.numpy(), np.asarray(sample.trajectory.act_outputs.action)
    is_first, reward = np.asarray(timesteps.is_first), np.asarray(timesteps.reward)
    env, episode, step = map(np.asarray, decode(timesteps.observation))

    def check(steps: range, b: int) -> None:
        first = steps[0]
        for t in steps:
            expected = env[first, b], episode[first, b], step[first, b] + t - first
            assert (env[t, b], episode[t, b], step[t, b]) == expected
            assert bool(is_first[t, b]) == (step[t, b] == 1)
            assert reward[t, b] == step[t, b] - 1
            assert action[t, b] == step[t, b] - 1
            for age in range(STACK):  # the newest frame is the last channel
                frame = stacks[t, b, ..., STACK - 1 - age].ravel()
                expected_frame = [env[t, b], episode[t, b], step[t, b] - age, 7]
                assert frame.tolist() == (expected_frame if step[t, b] - age >= 1 else [0, 0, 0, 0]), (t, b, age)

    return check
