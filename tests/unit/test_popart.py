"""PopArt: what is said stays the same when the statistics move, and these are those of the returns of each level."""

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

TWO = VECTOR._replace(extras={"level": ArraySpec((), "int32")}, actions_by_level=((0, 1, 2), (0, 2)))


def head(levels: int) -> tuple[PopArt, Any]:
    tf.random.set_seed(1)
    made, features = PopArt(levels, name="value"), tf.random.normal([4, 6, 5])
    made.values(features, tf.zeros([4, 6], tf.int32))
    made.b.assign(tf.random.normal(made.b.shape))
    return made, features


def test_values_stay_the_same_while_their_units_move() -> None:
    made, features = head(2)
    level = tf.constant(np.random.default_rng(0).integers(2, size=(4, 6)), tf.int32)
    for number in range(5):
        before = made.values(features, level).numpy()
        returns = tf.random.normal([4, 6], mean=1000.0 * number, stddev=300.0)
        made.update(made.batch_statistics(returns, tf.ones([4, 6]), level))
        np.testing.assert_allclose(made.values(features, level), before, rtol=1e-3, atol=1e-3)
    assert float(made.scale(level)[0, 0]) > 3, "they did move"


def test_statistics_are_those_of_the_real_steps_of_each_level() -> None:
    made, _ = head(3)
    level = np.array([[0, 1], [1, 0], [0, 0]], np.int32)  # nobody plays level 2
    returns = np.array([[1.0, 10], [30, 2], [1000, 3]], np.float32)
    real = np.array([[1.0, 1], [1, 1], [0, 1]], np.float32)
    made.update(made.batch_statistics(tf.constant(returns), tf.constant(real), tf.constant(level)))
    mean, square = np.array([2.0, 20]), np.array([(1 + 4 + 9) / 3, (100 + 900) / 2])
    np.testing.assert_allclose(made._mean, [*(STATISTICS_STEP_SIZE * mean), 0], rtol=1e-5)
    np.testing.assert_allclose(made._square, [*(1 + STATISTICS_STEP_SIZE * (square - 1)), 1], rtol=1e-5)


def test_the_units_come_to_the_mean_and_the_spread_of_the_returns() -> None:
    made, _ = head(1)
    rng, steps = np.random.default_rng(0), 4000
    update = tf_function(made.update)
    for _ in range(steps):
        returns = tf.constant(rng.normal(50, 7, size=(2, 10)).astype(np.float32))
        update(made.batch_statistics(returns, tf.ones([2, 10]), None))
    left = (1 - STATISTICS_STEP_SIZE) ** steps  # of the way there
    mean, square = 50 * (1 - left), (50**2 + 7**2) * (1 - left) + left
    assert float(made._mean[0]) == pytest.approx(mean, rel=0.01)
    assert float(made.scale(None)) == pytest.approx((square - mean**2) ** 0.5, rel=0.03)


def test_a_level_that_always_pays_the_same_does_not_divide_by_nothing() -> None:
    made, features = head(1)
    made._square.assign(tf.square(made._mean))
    assert float(made.scale(None)) == pytest.approx(MIN_SCALE)
    assert np.isfinite(made.values(features, None)).all()


def with_levels(sample: Sample, seed: int) -> Sample:
    steps = sample.trajectory.timesteps
    level = np.random.default_rng(seed).integers(2, size=steps.reward.shape[1]).astype(np.int32)
    steps = steps._replace(extras={"level": np.broadcast_to(level, steps.reward.shape).copy()})
    return sample._replace(trajectory=sample.trajectory._replace(timesteps=steps))


def test_the_losses_are_in_units_of_the_level() -> None:
    """Returns a hundred times as large, in units a hundred times as large, give the same policy and value gradient."""
    config = small_config(popart=True, reward_clipping="none", batch_size=8)
    totals = []
    for scale in (1.0, 100.0):
        agent = make_impala(config, TWO)
        value = agent.network.value_head
        value._square.assign([scale**2, scale**2])
        sample = with_levels(random_sample(1, config, TWO), 1)
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


class Both(SingleProcess):
    """As if another learner had had the same."""

    size = 2

    def reduce(self, gradients: list[tf.Tensor], scalars: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        return [2 * g for g in gradients], 2 * scalars


def test_the_learner_adds_up_the_statistics_of_all_and_keeps_them_in_checkpoints() -> None:
    config = small_config(popart=True, batch_size=8)
    agent, other = make_impala(config, TWO), make_impala(config, TWO)
    alone, both = Learner(config, agent, 1, SingleProcess()), Learner(config, other, 1, Both())
    sample = as_tensors(with_levels(random_sample(1, config, TWO), 1))
    for learner in (alone, both):
        learner.update(sample)
        assert learner.update(None).contributors == 0
    for a, b in zip(agent.network.value_head._mean.numpy(), other.network.value_head._mean.numpy(), strict=True):
        assert a == pytest.approx(b, rel=1e-4)  # a mean over twice the same is the same
    assert (agent.network.value_head._mean.numpy() != 0).all()
    kept = [name for name in alone.variables() if name.endswith(("mean:0", "square:0"))]
    assert len(kept) == 2


def test_without_it_there_is_one_value_and_no_statistics() -> None:
    agent = make_impala(small_config(), TWO)
    assert agent.num_statistics == 0
    assert agent.network.value_head.b.shape == [1]
    spec = EnvSpec(VECTOR.observation, 3, 1)
    assert make_impala(small_config(popart=True), spec).num_statistics == 3
