"""Two specs, a small configuration, agents, and samples as a queue or replay would return them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from agents.impala import Impala
from mlma.core.actions import action_spec, policy_size
from mlma.core.config import Config
from mlma.core.flat_weights import build_variables
from mlma.core.types import (
    ActOutput,
    ArraySpec,
    BoxPart,
    ChoicePart,
    EnvSpec,
    NetworkState,
    Sample,
    TimeStep,
    Trajectory,
)
from mlma.monitoring.metrics import Metrics, ReportListener, Row
from mlma.monitoring.phase_timer import PhaseTimer

VECTOR = EnvSpec(ArraySpec((3,), "float32"), num_actions=3, action_repeats=4)
# Two real numbers, of which one has no bounds, and a choice of three between them.
REAL = VECTOR._replace(num_actions=0, action_parts=(BoxPart((True,)), ChoicePart(3), BoxPart((False,))))
IMAGE = EnvSpec(ArraySpec((84, 84, 1), "uint8"), num_actions=4, action_repeats=4)


class Rows(list[Row]):
    """A report listener that keeps all rows."""

    def on_report(self, row: Row) -> None:
        self.append(row)

    def close(self, finished: bool) -> None:
        pass


def make_metrics(
    *listeners: ReportListener, every_seconds: float = 0.0, total_frames: float = 1000, **more: Any
) -> Metrics:
    return Metrics(PhaseTimer(), listeners, every_seconds, total_frames, **more)


def small_config(**changes: Any) -> Config:
    """A configuration for VECTOR, with every "auto" resolved."""
    values: dict[str, Any] = dict(
        total_environment_frames=1e9, agent_name="MLPAgent", num_stacked_frames=1, batch_size=2, unroll_length=5,
        entropy_cost=0.01, learning_rate=0.01, epsilon=0.01, gradients_clipping=40.0, optimizer="rmsprop",
        vtrace_lambda=1.0, policy_clip=0.0, baseline_cost=0.5, sample_reuse=1,
        discounting=0.99, reward_clipping="abs_one", decay=0.99, end_learning_rate=0.0,
    )  # fmt: skip
    return Config.from_flags(**(values | changes))


def make_impala(config: Config, spec: EnvSpec = VECTOR, seed: int = 1) -> Impala:
    """An agent whose variables exist."""
    tf.random.set_seed(seed)
    agent = Impala(config, spec)
    build_variables(agent, spec)
    return agent


def random_actions(rng: np.random.Generator, spec: EnvSpec, *shape: int) -> Any:
    """Actions [*shape, ...] of a level."""
    if not spec.action_parts:
        return rng.integers(spec.num_actions, size=shape).astype(np.int32)
    columns = [
        rng.integers(part.alternatives, size=(*shape, 1))
        if isinstance(part, ChoicePart)
        else rng.normal(size=(*shape, len(part.bounded)))
        for part in spec.action_parts
    ]
    return np.concatenate(columns, axis=-1).astype(action_spec(spec).dtype)


def random_timesteps(rng: np.random.Generator, spec: EnvSpec, steps: int, batch: int, firsts: float = 0.2) -> TimeStep:
    """Time steps [T, B, ...], each the first of an episode with probability `firsts`."""
    shape = (steps, batch)
    if spec.observation.dtype == "uint8":
        observation = rng.integers(256, size=(*shape, *spec.observation.shape)).astype(np.uint8)
    else:
        observation = rng.normal(size=(*shape, *spec.observation.shape)).astype(np.float32)
    return TimeStep(
        observation=observation,
        reward=rng.normal(size=shape).astype(np.float32),
        discount=(rng.random(shape) > 0.2).astype(np.float32),
        is_first=rng.random(shape) < firsts,
        last_action=random_actions(rng, spec, *shape),
        episode_return=np.full(shape, np.nan, np.float32),
        episode_frames=np.zeros(shape, np.int32),
    )


def random_sample(seed: int, config: Config, spec: EnvSpec = VECTOR, firsts: float = 0.2) -> Sample:
    """A sample of numpy arrays, without agent state, since an MLPAgent has none."""
    rng = np.random.default_rng(seed)
    steps, batch = config.learner.unroll_length + 1, config.learner.batch_size
    acted = ActOutput(
        action=random_actions(rng, spec, steps, batch),
        logits=rng.normal(size=(steps, batch, policy_size(spec))).astype(np.float32),
        value=rng.normal(size=(steps, batch)).astype(np.float32),
    )
    zeros = np.zeros(batch, np.int32)
    timesteps = random_timesteps(rng, spec, steps, batch, firsts)
    trajectory = Trajectory(NetworkState(None, None), timesteps, acted, zeros.astype(np.int64), zeros)
    return Sample(
        trajectory,
        zeros.astype(np.int64),
        np.ones(batch, np.float32),
        num_new_steps=batch * config.learner.unroll_length,
    )


def as_tensors(sample: Sample) -> Sample:
    """The sample as TrajectoryQueue returns it: all tensors, except `weights_version` and `num_new_steps`."""
    tensors = tf.nest.map_structure(lambda x: None if x is None else tf.constant(x), sample)
    trajectory = tensors.trajectory._replace(weights_version=sample.trajectory.weights_version)
    return tensors._replace(trajectory=trajectory, num_new_steps=sample.num_new_steps)
