"""Distributions over actions: densities and entropies against closed forms and integrals, samples against both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.action_distributions import Categorical, Gaussian, make_distribution
from mlma.core.actions import action_spec, greedy_actions, policy_size
from mlma.core.types import BoxPart, ChoicePart
from tests.support.samples import REAL, VECTOR

U = np.linspace(-12, 12, 200_001)


def normal_log_density(u: Any, mean: Any, log_spread: Any) -> Any:
    """Closed form, in float64."""
    return -0.5 * ((u - mean) / np.exp(log_spread)) ** 2 - log_spread - 0.5 * np.log(2 * np.pi)


def test_the_density_of_independent_numbers_is_the_product_of_theirs() -> None:
    rng = np.random.default_rng(0)
    mean, log_spread, action = rng.normal(size=(3, 7, 5, 4))
    log_spread *= 0.7
    expected = normal_log_density(action, mean, log_spread).sum(axis=-1)
    parameters = tf.constant(np.concatenate([mean, log_spread], axis=-1), tf.float32)
    actual = Gaussian((False,) * 4).log_prob(parameters, tf.constant(action, tf.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_entropy_of_a_gaussian_is_the_closed_form() -> None:
    log_spread = np.array([[-1.0, 0.3], [0.0, -2.0]])
    parameters = tf.constant(np.concatenate([log_spread * 9, log_spread], axis=-1), tf.float32)  # the mean is no matter
    expected = (0.5 * np.log(2 * np.pi * np.e) + log_spread).sum(axis=-1)
    np.testing.assert_allclose(Gaussian((False, False)).entropy(parameters), expected, rtol=1e-5)


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (0.8, 0.5), (-2.0, 0.3), (0.3, 0.01)])
def test_the_density_of_a_squashed_number_is_that_of_its_tanh(mean: float, spread: float) -> None:
    """It integrates to 1 over the bounds, and its entropy is the integral of -p log p."""
    parameters = tf.constant([mean, np.log(spread)], tf.float32)
    squashed = Gaussian((True,))
    u = mean + spread * U
    log_density = squashed.log_prob(parameters, tf.constant(u[:, np.newaxis], tf.float32)).numpy().astype(np.float64)
    slope = 1 / np.cosh(u) ** 2  # of tanh: da = slope du
    density = np.exp(log_density)
    assert np.trapezoid(density * slope, u) == pytest.approx(1, abs=1e-4)
    entropy = float(squashed.entropy(parameters))
    assert entropy == pytest.approx(-np.trapezoid(density * log_density * slope, u), abs=3e-3)
    assert entropy < float(Gaussian((False,)).entropy(parameters))


def test_the_density_of_a_squashed_number_is_finite_where_its_tanh_is_one() -> None:
    parameters = tf.constant([[40.0, 0.0], [-40.0, 0.0]])
    log_prob = Gaussian((True,)).log_prob(parameters, tf.constant([[40.5], [-39.0]]))
    assert np.isfinite(log_prob).all()
    assert np.isfinite(Gaussian((True,)).entropy(parameters)).all()


def test_only_numbers_with_bounds_are_squashed() -> None:
    parts = (BoxPart((True, False)),)
    parameters = tf.constant([[0.5, 0.5, 0.0, 0.0]])
    squashed = make_distribution(REAL._replace(action_parts=parts), "tanh").log_prob(
        parameters, tf.constant([[1.0, 1.0]])
    )
    expected = 2 * normal_log_density(1.0, 0.5, 0.0) - np.log(1 - np.tanh(1.0) ** 2)
    assert float(squashed[0]) == pytest.approx(float(expected), rel=1e-5)
    clipped = make_distribution(REAL._replace(action_parts=parts), "clip").log_prob(
        parameters, tf.constant([[1.0, 1.0]])
    )
    assert float(clipped[0]) == pytest.approx(2 * float(normal_log_density(1.0, 0.5, 0.0)), rel=1e-5)


def test_the_ratio_of_two_squashed_densities_is_that_of_the_gaussians() -> None:
    one, two = tf.constant([0.2, -0.1]), tf.constant([-0.3, 0.4])
    u = tf.random.normal([50, 1], seed=1)
    ratios = [d.log_prob(one, u) - d.log_prob(two, u) for d in (Gaussian((True,)), Gaussian((False,)))]
    np.testing.assert_allclose(ratios[0], ratios[1], atol=1e-5)


def test_samples_have_mean_spread_and_density_of_the_gaussian() -> None:
    count = 20_000
    parameters = tf.constant([[1.0, -2.0, np.log(0.5), np.log(2.0)]] * count, tf.float32)
    uniform = np.random.default_rng(0).random((count, 2), np.float32)
    uniform[0] = 0.0, 1 - 2**-24  # the ends of what a generator returns
    samples = Gaussian((False, False)).sample(parameters, tf.constant(uniform)).numpy()
    assert np.isfinite(samples).all()
    np.testing.assert_allclose(samples.mean(axis=0), [1, -2], atol=0.05)
    np.testing.assert_allclose(samples.std(axis=0), [0.5, 2], rtol=0.03)
    assert abs(np.corrcoef(samples.T)[0, 1]) < 0.03, "each number has a random number of its own"
    log_density = Gaussian((False, False)).log_prob(parameters, tf.constant(samples))
    entropy = Gaussian((False, False)).entropy(parameters[0])
    assert float(-tf.reduce_mean(log_density)) == pytest.approx(float(entropy), abs=0.03)


def test_parts_are_independent_and_in_the_order_of_the_action() -> None:
    """REAL: a number, a choice of three, a number; 2 + 3 + 2 parameters."""
    joint = make_distribution(REAL, "clip")
    assert joint.num_parameters == policy_size(REAL) == 7
    assert action_spec(REAL) == ((3,), "float32")
    rng = np.random.default_rng(1)
    parameters = rng.normal(size=(6, 7)).astype(np.float32)
    actions = np.stack([rng.normal(size=6), [0, 1, 2, 2, 1, 0], rng.normal(size=6)], axis=-1).astype(np.float32)
    gaussian, choice = Gaussian((False,)), Categorical(3)
    own = parameters[:, :2], parameters[:, 2:5], parameters[:, 5:]
    expected = (
        gaussian.log_prob(own[0], actions[:, :1])
        + choice.log_prob(tf.constant(own[1]), actions[:, 1].astype(np.int32))
        + gaussian.log_prob(own[2], actions[:, 2:])
    )
    np.testing.assert_allclose(joint.log_prob(tf.constant(parameters), tf.constant(actions)), expected, rtol=1e-5)
    entropy = gaussian.entropy(own[0]) + choice.entropy(tf.constant(own[1])) + gaussian.entropy(own[2])
    np.testing.assert_allclose(joint.entropy(tf.constant(parameters)), entropy, rtol=1e-5)
    uniform = tf.constant(rng.random((6, 3)), tf.float32)
    sample = joint.sample(tf.constant(parameters), uniform).numpy()
    assert sample.dtype == np.float32
    np.testing.assert_allclose(sample[:, :1], gaussian.sample(own[0], uniform[:, :1]), rtol=1e-6)
    np.testing.assert_array_equal(sample[:, 1], choice.sample(tf.constant(own[1]), uniform[:, 1]))
    greedy = greedy_actions(REAL, parameters)
    np.testing.assert_array_equal(greedy, np.stack([own[0][:, 0], own[1].argmax(axis=-1), own[2][:, 0]], axis=-1))
    likeliest = joint.log_prob(tf.constant(parameters), tf.constant(greedy))
    assert (likeliest.numpy() >= joint.log_prob(tf.constant(parameters), tf.constant(sample)).numpy()).all()


def test_listed_actions_have_one_logit_each_as_ever() -> None:
    assert policy_size(VECTOR) == make_distribution(VECTOR, "tanh").num_parameters == 3
    assert action_spec(VECTOR) == ((), "int32")
    greedy = greedy_actions(VECTOR, np.array([[0.0, 2.0, 1.0]]))
    assert (greedy.tolist(), greedy.dtype) == ([1], np.int32)


def test_a_level_with_choices_and_numbers_has_no_metric_of_two_actions() -> None:
    metrics = make_distribution(REAL._replace(action_parts=(BoxPart((True,)), ChoicePart(2))), "clip").metrics
    found = metrics(tf.constant([[0.5, np.log(2.0), 0.0, 0.0]], tf.float32))
    assert found.keys() == {"policy/spread", "policy/mean_size"}
    assert float(found["policy/spread"][0]) == pytest.approx(2)
