"""The learner: one graph, no update from non-finite values, the learning rate schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mlma.core.types import Sample
from mlma.distributed.allreduce import SingleProcess
from mlma.learning.learner import Learner
from mlma.learning.optimizers import clip_gradients
from tests.support.samples import VECTOR, as_tensors, make_impala, random_sample, small_config
from tests.support.small_learners import FRAMES, make_learner

CONFIG = small_config(total_environment_frames=400.0)


def sample(seed: int = 1, version: Any = 0, **fields: Any) -> Sample:
    """A random sample; `fields` are set at step 2 of the second trajectory."""
    numpy_sample = random_sample(seed, CONFIG, firsts=0.0)
    for name, value in fields.items():
        getattr(numpy_sample.trajectory.timesteps, name)[2, 1] = value
    versions = np.broadcast_to(np.asarray(version, np.int64), [CONFIG.learner.batch_size]).copy()
    trajectory = numpy_sample.trajectory._replace(weights_version=versions)
    return as_tensors(numpy_sample._replace(trajectory=trajectory))


def state_of(learner: Learner) -> list[bytes]:
    """Weights and optimizer slots as bytes."""
    slots = [v for v in learner._optimizer.variables if v is not learner._learning_rate]
    return [v.numpy().tobytes() for v in (*learner.weights.variables, *slots)]


def test_making_a_learner_changes_no_weight_and_leaves_the_slots_at_zero() -> None:
    for optimizer in ("rmsprop", "adam"):
        config = small_config(optimizer=optimizer)
        agent = make_impala(config)
        before = [v.numpy() for v in agent.network.variables]
        learner = Learner(config, agent, 4, SingleProcess())
        for one, two in zip(before, agent.network.variables, strict=True):
            np.testing.assert_array_equal(one, two)
        slots = [v for v in learner.variables().values() if not any(v is w for w in agent.network.variables)]
        assert len(slots) >= 2 * len(before)
        assert not any(np.any(slot) for slot in slots)


def test_with_xla_the_updates_are_the_same() -> None:
    plain, compiled = make_learner(), make_learner(jit_compile=True)
    compiled.weights.write(plain.weights.read().numpy().tobytes())
    for seed in range(3):
        expected, result = (learner.update(sample(seed)).metrics for learner in (plain, compiled))
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            assert result[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    np.testing.assert_allclose(compiled.weights.read(), plain.weights.read(), rtol=1e-4, atol=1e-6)
    calls = [op for op in compiled._train._concrete.graph.get_operations() if "_XlaMustCompile" in op.node_def.attr]
    assert any(op.get_attr("_XlaMustCompile") for op in calls)


@pytest.mark.parametrize("optimizer", ["rmsprop", "rmsprop_centered"])
def test_the_mean_square_of_rmsprop_alone_starts_where_the_flag_says(optimizer: str) -> None:
    learner = make_learner(optimizer=optimizer, initial_mean_square=1.0)
    values = {name: np.unique(v).tolist() for name, v in learner.variables().items() if name.startswith("optimizer/")}
    assert len(values) == (3 if "centered" in optimizer else 2) * len(learner.weights.variables)
    for name, value in values.items():
        assert value == [1.0 if "/rms/" in name else 0.0], name


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("initial", [0.0, 1.0])
@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop_follows_the_rule_of_tensorflow_1(centered: bool, initial: float, updates: int) -> None:
    """Epsilon is inside the root, and the learning rate is in the momentum. TensorFlow 1 itself starts at 1."""
    decay, momentum, epsilon, rate = 0.9, 0.5, 0.1, 0.2
    learner = make_learner(
        optimizer="rmsprop_centered" if centered else "rmsprop", initial_mean_square=initial, decay=decay,
        momentum=momentum, epsilon=epsilon,
    )  # fmt: skip
    learner._learning_rate.assign(rate)
    weights = learner.weights.variables
    expected = [v.numpy().astype(np.float64) for v in weights]
    of_tensorflow = [tf.Variable(v) for v in weights]
    reference = tf.compat.v1.train.RMSPropOptimizer(rate, decay, momentum, epsilon, centered=centered)
    squares = [np.full(v.shape, initial) for v in weights]
    means, steps = ([np.zeros(v.shape) for v in weights] for _ in range(2))
    rng = np.random.default_rng(1)
    for _ in range(updates):
        gradients = [rng.normal(size=v.shape) for v in weights]
        for i, gradient in enumerate(gradients):
            squares[i] = decay * squares[i] + (1 - decay) * gradient**2
            means[i] = decay * means[i] + (1 - decay) * gradient
            variance = squares[i] - means[i] ** 2 if centered else squares[i]
            steps[i] = momentum * steps[i] + rate * gradient / np.sqrt(variance + epsilon)
            expected[i] = expected[i] - steps[i]
        tensors = [tf.constant(gradient, tf.float32) for gradient in gradients]
        learner._optimizer.apply(tensors, weights)
        reference.apply_gradients(zip(tensors, of_tensorflow, strict=True))
    for weight, by_hand, by_tensorflow in zip(weights, expected, of_tensorflow, strict=True):
        np.testing.assert_allclose(weight, by_hand, rtol=1e-4, atol=1e-5)
        if initial == 1:
            np.testing.assert_allclose(weight, by_tensorflow, rtol=1e-5, atol=1e-6)
        else:
            assert np.abs(weight - by_tensorflow).max() > 0.01


def test_every_sample_trains_in_one_graph() -> None:
    learner = make_learner()
    for version in range(4):
        learner.update(sample(seed=version, version=version - 1))
    assert learner._train.traces == 1


def test_a_variable_that_the_loss_does_not_reach_stays_as_it_is() -> None:
    agent = make_impala(CONFIG)
    agent.network.unused = tf.Variable([1.0, 2.0])  # a network of the user's may have one
    learner = Learner(CONFIG, agent, VECTOR.action_repeats, SingleProcess())
    assert not learner.update(sample()).dropped
    assert agent.network.unused.numpy().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("bad", [{"reward": np.nan}, {"observation": np.nan}, {"observation": np.inf}])
def test_a_non_finite_loss_updates_nothing_and_its_frames_count(bad: dict[str, Any]) -> None:
    learner = make_learner(momentum=0.5)
    assert not learner.update(sample()).dropped
    before = state_of(learner)
    assert learner.update(sample(**bad)).dropped
    assert state_of(learner) == before
    assert (learner.step, learner.frames) == (1, 2 * FRAMES)
    assert not learner.update(sample()).dropped
    assert state_of(learner) != before
    assert (learner.step, learner.frames) == (2, 3 * FRAMES)


def test_frames_count_every_repeat_of_every_step_of_the_sample() -> None:
    learner = make_learner()
    for _ in range(3):
        learner.update(sample())
    assert (learner.step, learner.frames) == (3, 3 * FRAMES)


def test_the_learning_rate_falls_linearly_over_frames_to_its_end() -> None:
    learner = make_learner(learning_rate=0.1, end_learning_rate=0.02)
    rates = [learner.update(sample()).metrics["learning_rate"] for _ in range(13)]
    expected = [0.02 + 0.08 * max(0.0, 1 - i * FRAMES / 400) for i in range(13)]
    assert rates == pytest.approx(expected, rel=1e-5)
    assert rates[-1] == pytest.approx(0.02)


def test_a_learning_rate_of_zero_moves_no_weight() -> None:
    learner = make_learner(end_learning_rate=0.0)
    learner.frames = 400
    before = [v.numpy() for v in learner.weights.variables]
    learner.update(sample())
    for one, two in zip(before, learner.weights.variables, strict=True):
        np.testing.assert_array_equal(one, two)


def test_gradients_are_clipped_at_their_global_norm() -> None:
    gradients = [tf.constant([3.0, 0.0]), tf.constant([[0.0], [4.0]])]  # norm 5
    for norm, factor in ((2.5, 0.5), (5.0, 1.0), (40.0, 1.0), (-1.0, 1.0)):
        clipped, before = clip_gradients(gradients, norm)
        assert before == 5
        for one, two in zip(gradients, clipped, strict=True):
            np.testing.assert_allclose(one * factor, two)


def test_clipping_bounds_the_update_and_the_norm_is_reported_unclipped() -> None:
    """The mean square of RMSProp shows which gradient the optimizer received."""
    norms = []
    for limit in (-1.0, 0.5):
        learner = make_learner(gradients_clipping=limit, decay=0.5)
        reported = learner.update(sample()).metrics["gradient_norm"]
        squares = sum(float(np.sum(v)) for v in learner._optimizer.ms)
        norms.append((reported, np.sqrt(squares / 0.5)))
    (reported, applied), (reported_with_limit, applied_with_limit) = norms
    assert reported > 1
    assert applied == pytest.approx(reported, rel=1e-4)
    assert reported_with_limit == pytest.approx(reported, rel=1e-5)
    assert applied_with_limit == pytest.approx(0.5, rel=1e-4)


def test_the_lag_is_the_number_of_updates_since_the_weights_acted() -> None:
    learner = make_learner()
    learner.step = 7
    values = learner.update(sample(version=[3, 6])).metrics
    assert (values["lag/mean"], values["lag/max"]) == (2.5, 4.0)


def test_training_lowers_the_loss_of_a_sample_that_is_seen_again() -> None:
    learner = make_learner(total_environment_frames=1e9)
    same = sample()
    losses = [learner.update(same).metrics["loss/value"] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
