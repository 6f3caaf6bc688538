"""Action selection at the ends of the range of random numbers. Masks of networks: tests/unit/test_networks.py."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from agents.action_selection import epsilon_greedy, sample_from_logits
from agents.networks.network import MASKED_LOGIT
from mlma.core.types import ActionNoise


def test_the_largest_and_smallest_random_numbers_give_actions_that_a_level_has() -> None:
    logits = tf.constant([[MASKED_LOGIT, 0.0, -1.0, MASKED_LOGIT]] * 2)
    ends = tf.constant([0.0, np.nextafter(np.float32(1), np.float32(0))])
    assert sample_from_logits(logits, ends).numpy().tolist() == [1, 2]
    assert epsilon_greedy(logits, ActionNoise(ends, tf.ones([2]))).numpy().tolist() == [1, 2]
    many = tf.random.stateless_normal([2, 500], [1, 2])
    assert sample_from_logits(many, ends).numpy().tolist() == [0, 499]
    assert epsilon_greedy(many, ActionNoise(ends * 0.3, tf.fill([2], 0.3))).numpy().tolist() == [0, 499]
