"""PopArt: values stay the same when the statistics change, and the statistics are those of each level's returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.networks.popart import MIN_SCALE, STATISTICS_STEP_SIZE, PopArt
from mlma.core.types import ArraySpec, EnvSpec, Sample
from mlma.distributed.allreduce import SingleProcess
from mlma.learning.learner import Learner
from mlma.utils.tf_function import tf_function
from tests.support.samples import VECTOR, as_tensors, make_impala, random_sample, small_config

TWO_LEVELS = VECTOR._replace(extras={"level": ArraySpec((), "int32")}, actions_by_level=((0, 1, 2), (0, 2)))


def make_head(levels: int) -> tuple[PopArt, Any]:
    """A value head with random weights, and features [T, B, F] for it."""
    tf.random.set_seed(1)
    popart, features = PopArt(levels, name="value"), tf.random.normal([4, 6, 5])
    popart.values(features, tf.zeros([4, 6], tf.int32))
    popart.b.assign(tf.random.normal(popart.b.shape))
    return popart, features


def test_values_stay_the_same_while_the_statistics_change() -> None:
    popart, features = make_head(2)
    level = tf.constant(np.random.default_rng(0).integers(2, size=(4, 6)), tf.int32)
    for number in range(5):
        before = popart.values(features, level).numpy()
        returns = tf.random.normal([4, 6], mean=1000.0 * number, stddev=300.0)
        popart.update(popart.batch_statistics(returns, tf.ones([4, 6]), level))
        np.testing.assert_allclose(popart.values(features, level), before, rtol=1e-3, atol=1e-3)
    assert float(popart.scale(level)[0, 0]) > 3, "the statistics did change"


def test_statistics_are_those_of_the_valid_steps_of_each_level() -> None:
    popart, _ = make_head(3)
    level = np.array([[0, 1], [1, 0], [0, 0]], np.int32)  # level 2 does not occur
    returns = np.array([[1.0, 10], [30, 2], [1000, 3]], np.float32)
    valid = np.array([[1.0, 1], [1, 1], [0, 1]], np.float32)
    popart.update(popart.batch_statistics(tf.constant(returns), tf.constant(valid), tf.constant(level)))
    mean, square = np.array([2.0, 20]), np.array([(1 + 4 + 9) / 3, (100 + 900) / 2])
    np.testing.assert_allclose(popart._mean, [*(STATISTICS_STEP_SIZE * mean), 0], rtol=1e-5)
    np.testing.assert_allclose(popart._square, [*(1 + STATISTICS_STEP_SIZE * (square - 1)), 1], rtol=1e-5)


def test_the_statistics_converge_to_mean_and_standard_deviation_of_the_returns() -> None:
    popart, _ = make_head(1)
    rng, steps = np.random.default_rng(0), 4000
    update = tf_function(popart.update)
    for _ in range(steps):
        returns = tf.constant(rng.normal(50, 7, size=(2, 10)).astype(np.float32))
        update(popart.batch_statistics(returns, tf.ones([2, 10]), None))
    left = (1 - STATISTICS_STEP_SIZE) ** steps  # weight of the initial statistics
    mean, square = 50 * (1 - left), (50**2 + 7**2) * (1 - left) + left
    assert float(popart._mean[0]) == pytest.approx(mean, rel=0.01)
    assert float(popart.scale(None)) == pytest.approx((square - mean**2) ** 0.5, rel=0.03)


def test_a_level_whose_returns_are_all_equal_does_not_divide_by_zero() -> None:
    popart, features = make_head(1)
    popart._square.assign(tf.square(popart._mean))
    assert float(popart.scale(None)) == pytest.approx(MIN_SCALE)
    assert np.isfinite(popart.values(features, None)).all()


def with_levels(sample: Sample, seed: int) -> Sample:
    steps = sample.trajectory.timesteps
    level = np.random.default_rng(seed).integers(2, size=steps.reward.shape[1]).astype(np.int32)
    steps = steps._replace(extras={"level": np.broadcast_to(level, steps.reward.shape).copy()})
    return sample._replace(trajectory=sample.trajectory._replace(timesteps=steps))


def test_the_losses_are_relative_to_the_scale_of_the_level() -> None:
    """With returns and scale a hundred times as large, loss and gradients are the same."""
    config = small_config(popart=True, reward_clipping="none", batch_size=8)
    totals = []
    for scale in (1.0, 100.0):
        agent = make_impala(config, TWO_LEVELS)
        value = agent.network.value_head
        value._square.assign([scale**2, scale**2])
        sample = with_levels(random_sample(1, config, TWO_LEVELS), 1)
        steps = sample.trajectory.timesteps
        scaled = steps._replace(reward=steps.reward * scale)
        sample = as_tensors(sample._replace(trajectory=sample.trajectory._replace(timesteps=scaled)))
        with tf.GradientTape() as tape:
            loss = agent.loss(sample)
        gradients = tape.gradient(loss.total, agent.network.trainable_variables)
        totals.append((float(loss.total), [g.numpy() for g in gradients]))
    assert totals[0][0] == pytest.approx(totals[1][0], rel=1e-4)
    for one, two in zip(totals[0][1], totals[1][1], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


class TwoEqualLearners(SingleProcess):
    """As if another learner had the same sample."""

    size = 2

    def allreduce_sum(self, gradients: list[tf.Tensor], scalars: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        return [2 * g for g in gradients], 2 * scalars


def test_the_learner_sums_the_statistics_of_all_learners_and_saves_them_in_checkpoints() -> None:
    config = small_config(popart=True, batch_size=8)
    agent, other = make_impala(config, TWO_LEVELS), make_impala(config, TWO_LEVELS)
    single, pair = Learner(config, agent, 1, SingleProcess()), Learner(config, other, 1, TwoEqualLearners())
    sample = as_tensors(with_levels(random_sample(1, config, TWO_LEVELS), 1))
    for learner in (single, pair):
        learner.update(sample)
        assert learner.update(None).contributors == 0
    for a, b in zip(agent.network.value_head._mean.numpy(), other.network.value_head._mean.numpy(), strict=True):
        assert a == pytest.approx(b, rel=1e-4)  # the mean over twice the same returns is the same
    assert (agent.network.value_head._mean.numpy() != 0).all()
    saved = [name for name in single.variables() if name.endswith(("mean:0", "square:0"))]
    assert len(saved) == 2


def test_without_popart_there_is_one_value_and_no_statistics() -> None:
    agent = make_impala(small_config(), TWO_LEVELS)
    assert agent.num_statistics == 0
    assert agent.network.value_head.b.shape == [1]
    spec = EnvSpec(VECTOR.observation, 3, 1)
    assert make_impala(small_config(popart=True), spec).num_statistics == 3
