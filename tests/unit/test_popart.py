"""PopArt: values stay the same when the statistics change, and the statistics are those of each level's returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.networks.popart import MIN_SCALE, STATISTICS_STEP_SIZE, PopArt
from mlma.core.flat_weights import FlatWeights
from mlma.core.types import ActionNoise, ArraySpec, EnvSpec, Sample
from mlma.distributed.allreduce import SingleProcess
from mlma.learning.learner import Learner
from mlma.utils.tf_function import tf_function
from tests.support.samples import VECTOR, as_tensors, make_impala, random_sample, small_config

TWO_LEVELS = VECTOR._replace(extras={"level": ArraySpec((), "int32")}, actions_by_level=((0, 1, 2), (0, 2)))


def make_head(levels: int, **settings: Any) -> tuple[PopArt, Any]:
    """A value head with random weights, and features [T, B, F] for it."""
    tf.random.set_seed(1)
    popart, features = PopArt(levels, name="value", **settings), tf.random.normal([4, 6, 5])
    popart.values(features, tf.zeros([4, 6], tf.int32))
    popart.b.assign(tf.random.normal(popart.b.shape))
    return popart, features


def learn(popart: PopArt, targets: Any, level: Any = None, weights: Any = None) -> None:
    """One update with targets [T, B]."""
    targets = np.asarray(targets, np.float32)
    weights = tf.ones(targets.shape) if weights is None else tf.constant(weights, tf.float32)
    level = None if level is None else tf.constant(level, tf.int32)
    popart.update(popart.batch_statistics(tf.constant(targets), weights, level))


def every_target(mean: Any, square: Any, targets: Any, level: Any, weights: Any, step: float) -> tuple[Any, Any]:
    """The rule target by target, in float64: each moves its level from where it was before the batch."""
    new_mean, new_square = mean.copy(), square.copy()
    for target, i, weight in zip(np.ravel(targets), np.ravel(level), np.ravel(weights), strict=True):
        new_mean[i] += weight * step * (target - mean[i])
        new_square[i] += weight * step * (target**2 - square[i])
    return new_mean, new_square


def test_values_stay_the_same_while_the_statistics_change() -> None:
    popart, features = make_head(2)
    level = np.random.default_rng(0).integers(2, size=(4, 6))
    for number in range(5):
        before = popart.values(features, tf.constant(level, tf.int32)).numpy()
        learn(popart, tf.random.normal([4, 6], mean=1000.0 * number, stddev=300.0), level)
        np.testing.assert_allclose(popart.values(features, tf.constant(level, tf.int32)), before, rtol=1e-3, atol=1e-3)
    assert float(popart.scale(tf.constant(level, tf.int32))[0, 0]) > 3, "the statistics did change"


def test_every_valid_target_moves_the_statistics_of_its_level() -> None:
    rng, (popart, _) = np.random.default_rng(3), make_head(4)
    mean, square = np.zeros(4), np.ones(4)
    for number in range(40):
        targets = rng.normal(5.0 * number, 30, size=(20, 8)).astype(np.float32)
        level, weights = rng.integers(3, size=(20, 8)), (rng.random((20, 8)) < 0.8)  # level 3 does not occur
        learn(popart, targets, level, weights)
        mean, square = every_target(mean, square, targets.astype(np.float64), level, weights, STATISTICS_STEP_SIZE)
        np.testing.assert_allclose(popart._mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(popart._square, square, rtol=1e-5)
    assert (popart._mean[3], popart._square[3]) == (0, 1)
    assert mean[0] > 40, "the statistics did change"


def test_masked_targets_do_not_count() -> None:
    popart, _ = make_head(1)
    learn(popart, [[1.0, 4.0], [1e9, 3.0]], weights=[[1.0, 1.0], [0.0, 1.0]])
    assert float(popart._mean[0]) == pytest.approx(STATISTICS_STEP_SIZE * (1 + 4 + 3), rel=1e-5)


def test_returns_of_mean_60_and_spread_25_are_found_in_300_updates() -> None:
    """RLax's rule on batches of 20 x 32 ends within this distance of 60 and 25 with any seed."""
    popart, _ = make_head(1)
    rng, update = np.random.default_rng(0), tf_function(popart.update)
    mean, square = np.zeros(1), np.ones(1)
    for _ in range(300):
        targets = rng.normal(60, 25, size=(20, 32)).astype(np.float32)
        update(popart.batch_statistics(tf.constant(targets), tf.ones([20, 32]), None))
        mean += STATISTICS_STEP_SIZE * (targets - mean).sum(dtype=np.float64)
        square += STATISTICS_STEP_SIZE * (targets.astype(np.float64) ** 2 - square).sum()
    assert float(popart._mean[0]) == pytest.approx(60, abs=1.5)
    assert float(popart.scale(None)) == pytest.approx(25, abs=1.0)
    assert float(popart._mean[0]) == pytest.approx(mean[0], rel=1e-5)
    assert float(popart.scale(None)) == pytest.approx(float(np.sqrt(square - mean**2)[0]), rel=1e-4)


def test_more_targets_than_one_over_the_step_size_do_not_overshoot() -> None:
    """With 8,000 targets, the sum of the moves would be 2.4 times the distance, and grow with each batch."""
    popart, _ = make_head(1)
    for seed in range(10):
        targets = np.random.default_rng(seed).normal(60, 25, size=(100, 80))
        learn(popart, targets)
        assert float(popart._mean[0]) == pytest.approx(targets.mean(), rel=1e-4)
        assert float(popart.scale(None)) == pytest.approx(targets.std(), rel=1e-3)


# The cases of RLax's pop_art_test.py, with its settings and expectations.

RLAX_BOUNDS = (1e-6, 1e6)
TWO_INDICES = [[0, 0, 0, 1, 1, 1]]


def test_rlax_unnormalize_linear() -> None:
    """Shift and scale of level i are i + 1; all normalised outputs are 1."""
    popart, _ = make_head(3)
    numbers = tf.constant([1.0, 2.0, 3.0])
    popart.w.assign(tf.zeros_like(popart.w))
    popart.b.assign(tf.ones([3]))
    popart._mean.assign(numbers)
    popart._square.assign(2 * numbers**2)
    np.testing.assert_allclose(popart.values(tf.ones([1, 3, 5]), tf.constant([[2, 1, 0]])), [[6, 4, 2]], rtol=1e-6)


def test_rlax_learn_scale_shift() -> None:
    popart, _ = make_head(2, step_size=0.1, bounds=RLAX_BOUNDS)
    for _ in range(10):
        learn(popart, [[-3, -2, -1, 0, 1, 2]], TWO_INDICES)
    np.testing.assert_allclose(popart._mean, [-2, 1], atol=0.1, rtol=0.1)
    np.testing.assert_allclose(popart._scales(), [np.std([-3, -2, -1])] * 2, atol=0.1, rtol=0.1)
    np.testing.assert_allclose(popart._mean, [-2 * (1 - 0.7**10), 1 - 0.7**10], rtol=1e-5)  # three moves a batch


def test_rlax_slow_update() -> None:
    slow, fast = (make_head(2, step_size=step, bounds=RLAX_BOUNDS)[0] for step in (0.01, 0.1))
    for popart in (slow, fast):
        learn(popart, [[0, 3, 6, 9, 12, 15]], TWO_INDICES)
    assert (slow._mean.numpy() < fast._mean.numpy()).all()
    assert (slow._scales().numpy() < fast._scales().numpy()).all()


def test_rlax_scale_bounded() -> None:
    popart, _ = make_head(1, step_size=0.1, bounds=(1.0, 1.0))
    for _ in range(4):
        learn(popart, np.ones((4, 2)))
        assert float(popart.scale(None)) == pytest.approx(1.0, abs=1e-7)


def test_rlax_outputs_preserved() -> None:
    popart, features = make_head(2, step_size=1e-3, bounds=RLAX_BOUNDS)
    level, rng = tf.constant([[0] * 6, [1] * 6, [0] * 6, [1] * 6]), np.random.default_rng(428)
    before = popart.values(features, level)
    for _ in range(30):
        learn(popart, rng.random((1, 8)), [[0, 1] * 4])
        np.testing.assert_allclose(popart.values(features, level), before, atol=1e-5)
    assert (popart._mean.numpy() > 0.03).all(), "the statistics did change"


def test_rlax_cross_replica_scatter_add() -> None:
    """Targets that four replicas add by index, on each alone and over all of them."""
    popart, _ = make_head(3)
    targets = np.array([[[1, 0, 0], [0, 5, 0]], [[0, 0, 9], [0, 0, 0]]], np.float32).reshape(4, 1, 3)
    level = np.array([[[2, 2, 2], [1, 1, 1]], [[0, 0, 0], [0, 1, 2]]], np.int32).reshape(4, 1, 3)
    sums = [
        popart.batch_statistics(t, tf.ones([1, 3]), tf.constant(i))[3:6] for t, i in zip(targets, level, strict=True)
    ]
    np.testing.assert_array_equal(sums, [[0, 0, 1], [0, 5, 0], [9, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(sum(sums), [9, 5, 1])


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


def test_two_learners_move_the_statistics_as_one_with_the_samples_of_both() -> None:
    (pair, _), (single, _), rng = make_head(2), make_head(2), np.random.default_rng(5)
    for _ in range(20):
        targets, level = rng.normal(9, 4, size=(2, 5, 8)).astype(np.float32), rng.integers(2, size=(2, 5, 8))
        halves = [
            pair.batch_statistics(tf.constant(t), tf.ones([5, 8]), tf.constant(i, tf.int32))
            for t, i in zip(targets, level, strict=True)
        ]
        pair.update(halves[0] + halves[1] + tf.zeros([6]))  # a third learner has no sample
        learn(single, np.concatenate(targets, axis=1), np.concatenate(level, axis=1))
    np.testing.assert_allclose(pair._mean, single._mean, rtol=1e-5)
    np.testing.assert_allclose(pair._square, single._square, rtol=1e-5)
    assert (single._mean.numpy() > 0.1).all()


class TwoEqualLearners(SingleProcess):
    """As if another learner had the same sample."""

    size = 2

    def allreduce_sum(self, gradients: list[tf.Tensor], scalars: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        return [2 * g for g in gradients], 2 * scalars


class WithAnIdleLearner(SingleProcess):
    """As if another learner had no sample."""

    size = 2


def make_learner(allreduce: SingleProcess | None = None, **changes: Any) -> tuple[Learner, Any]:
    """A learner with two levels, and its agent."""
    config = small_config(popart=True, batch_size=8, **changes)
    agent = make_impala(config, TWO_LEVELS)
    return Learner(config, agent, 1, allreduce or SingleProcess()), agent


def two_level_sample(seed: int = 1, rewards: Any = None) -> Sample:
    """A sample for `make_learner`; `rewards` replace those of two steps."""
    sample = with_levels(random_sample(seed, small_config(batch_size=8), TWO_LEVELS, firsts=0.0), seed)
    if rewards is not None:
        sample.trajectory.timesteps.reward[2:4, 1] = rewards
    return as_tensors(sample)


def test_the_learner_sums_the_statistics_of_all_learners_and_saves_them_in_checkpoints() -> None:
    means = []
    for allreduce in (SingleProcess(), TwoEqualLearners(), WithAnIdleLearner()):
        learner, agent = make_learner(allreduce)
        learner.update(two_level_sample())
        assert learner.update(None).contributors == 0
        means.append(agent.network.value_head._mean.numpy())
        saved = [name for name in learner.variables() if name.endswith(("mean:0", "square:0"))]
        assert len(saved) == 2
    assert (means[0] != 0).all()
    np.testing.assert_allclose(means[1], 2 * means[0], rtol=1e-5)  # twice as many targets, from a mean of 0
    np.testing.assert_array_equal(means[2], means[0])


@pytest.mark.parametrize(
    ("reward", "deviation"),
    [(np.nan, 1.0), (1e25, 1.0), (1e22, 1e6)],  # the last overflows in the square of a return alone, not in the loss
)
def test_a_dropped_sample_leaves_the_statistics_as_they_are(reward: float, deviation: float) -> None:
    learner, agent = make_learner(reward_clipping="none")
    head = agent.network.value_head
    head._square.assign([deviation**2] * 2)
    learner.update(two_level_sample())
    before = learner.weights.read().numpy()
    if reward == 1e22:
        loss = agent.loss(two_level_sample(rewards=reward))
        assert np.isfinite(loss.total) and np.isinf(loss.statistics).any()
    assert learner.update(two_level_sample(rewards=reward)).dropped
    np.testing.assert_array_equal(learner.weights.read(), before)
    assert not learner.update(two_level_sample()).dropped
    assert (learner.weights.read().numpy() != before).any()


def test_an_actor_with_the_published_vector_computes_the_values_of_the_learner() -> None:
    learner, agent = make_learner(reward_clipping="none")
    for seed in range(10):
        learner.update(two_level_sample(seed, rewards=3000.0))
    assert (np.abs(agent.network.value_head._mean) > 1).all(), "the statistics did change"
    actor = make_impala(small_config(popart=True), TWO_LEVELS, seed=2)
    weights = FlatWeights(actor.network)
    assert weights.signature == learner.weights.signature
    weights.write(learner.weights.read().numpy().tobytes())
    timestep = tf.nest.map_structure(lambda x: x[0], two_level_sample(99).trajectory.timesteps)  # [E, ...]
    noise = ActionNoise(tf.fill([8], 0.3), tf.zeros([8]))
    theirs, ours = (a.act(timestep, a.initial_state(8), noise)[0] for a in (agent, actor))
    np.testing.assert_array_equal(ours.value, theirs.value)
    np.testing.assert_array_equal(ours.action, theirs.action)


def test_without_popart_the_published_vector_is_the_trainable_variables_as_ever() -> None:
    agent = make_impala(small_config())
    weights = FlatWeights(agent.network)
    flat = np.concatenate([v.numpy().ravel() for v in agent.network.trainable_variables])
    assert weights.read().numpy().tobytes() == flat.tobytes()
    assert weights.signature == "28022bfa61dea7aa", "that of version 0.1, which a handshake compares"


def test_without_popart_there_is_one_value_and_no_statistics() -> None:
    agent = make_impala(small_config(), TWO_LEVELS)
    assert agent.num_statistics == 0
    assert agent.network.value_head.b.shape == [1]
    spec = EnvSpec(VECTOR.observation, 3, 1)
    assert make_impala(small_config(popart=True), spec).num_statistics == 3
