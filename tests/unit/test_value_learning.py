"""The equations of Ape-X and R2D2 against slow implementations, one number at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.ops import value_learning


def slow_n_step(rewards: Any, discounts: Any, valid: Any, values: Any, n: int) -> Any:
    """Walks from each step along its episode, at most n steps."""
    steps, batch = rewards.shape
    targets = np.zeros((steps, batch))
    for b in range(batch):
        for t in range(steps):
            at, weight = t, 1.0
            while at < min(t + n, steps) and valid[at, b]:
                targets[t, b] += weight * rewards[at, b]
                weight *= discounts[at, b]
                at += 1
            targets[t, b] += weight * values[at, b]
    return targets


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20])
def test_n_step_targets_end_with_the_return_the_episode_and_the_window(n: int) -> None:
    rng = np.random.default_rng(n)
    rewards, values = rng.normal(size=(12, 8)), rng.normal(size=(13, 8))
    discounts = 0.9 * (rng.random((12, 8)) > 0.2)
    valid = rng.random((12, 8)) > 0.2
    tensors = [tf.constant(x) for x in (rewards, discounts, valid, values)]
    targets = value_learning.n_step_bootstrapped_returns(tensors[0], tensors[1], tensors[2], tensors[3], n)
    np.testing.assert_allclose(targets, slow_n_step(rewards, discounts, valid, values, n), atol=1e-12)


def test_a_truncated_episode_bootstraps_from_its_own_last_observation() -> None:
    rewards, values = tf.ones([4, 1]), tf.constant([[10.0], [20.0], [30.0], [40.0], [50.0]])
    valid = tf.constant([[True], [True], [False], [True]])  # step 3 starts a new episode
    targets = value_learning.n_step_bootstrapped_returns(rewards, tf.fill([4, 1], 0.5), valid, values, 3)
    np.testing.assert_allclose(targets[:, 0], [1 + 0.5 * 1 + 0.25 * 30, 1 + 0.5 * 30, 30, 1 + 0.5 * 50])


def test_the_steps_of_an_episode_are_counted_from_the_start_of_the_window() -> None:
    valid = tf.constant([[True, False, True], [True, True, False], [True, True, True]])
    assert value_learning.steps_within_episode(valid).numpy().tolist() == [3, 0, 1]


def test_rescaling_and_its_inverse() -> None:
    x = np.concatenate([-np.logspace(6, -6, 50), [0.0], np.logspace(-6, 6, 50)])
    h = np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 1e-3 * x  # as printed in the paper, in float64
    np.testing.assert_allclose(value_learning.signed_hyperbolic(tf.constant(x)), h, rtol=1e-12)
    e = 1e-3
    printed = np.sign(h) * (((np.sqrt(1 + 4 * e * (np.abs(h) + 1 + e)) - 1) / (2 * e)) ** 2 - 1)
    np.testing.assert_allclose(value_learning.signed_parabolic(tf.constant(h)), printed, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        value_learning.signed_parabolic(value_learning.signed_hyperbolic(tf.constant(x))), x, rtol=1e-9, atol=1e-12
    )
    single = tf.constant(x, tf.float32)  # the precision of training
    np.testing.assert_allclose(
        value_learning.signed_parabolic(value_learning.signed_hyperbolic(single)), single, rtol=1e-4, atol=2e-6
    )
    assert (np.diff(value_learning.signed_parabolic(tf.constant(np.linspace(-50, 50, 1001)))) > 0).all()


def test_the_action_is_chosen_by_one_network_and_valued_by_the_other() -> None:
    online, target = tf.constant([[[1.0, 5.0, 2.0]]]), tf.constant([[[10.0, 20.0, 30.0]]])
    assert value_learning.double_q(online, target).numpy() == [[20.0]]
    assert value_learning.batched_index(target, tf.constant([[2]])).numpy() == [[30.0]]


def test_the_priority_of_a_sequence_mixes_the_largest_and_the_mean_of_absolute_errors() -> None:
    """The absolute value of the mean of signed errors, which system 003 used, would be 0 here."""
    errors, mask = tf.constant([[3.0], [-3.0], [1.0], [-1.0], [99.0]]), tf.constant([[1.0], [1.0], [1.0], [1.0], [0.0]])
    assert value_learning.sequence_priorities(errors, mask, 0.9).numpy() == pytest.approx([0.9 * 3 + 0.1 * 2])


def test_the_ladder_gives_each_environment_of_the_run_its_own_epsilon() -> None:
    ladder = value_learning.epsilon_ladder(tf.range(360), 360, 0.4, 7.0).numpy()
    expected = [0.4 ** (1 + 7 * i / 359) for i in range(360)]
    np.testing.assert_allclose(ladder, expected, rtol=1e-4)
    assert len(set(ladder)) == 360
    assert value_learning.epsilon_ladder(tf.range(1), 1, 0.4, 7.0).numpy() == pytest.approx([0.4])
