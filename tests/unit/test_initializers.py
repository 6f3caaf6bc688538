"""Initial weights: `--initializers`, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.networks.network import Network
from agents.networks.recurrent import InstructionEncoder, ResetLSTM
from agents.networks.zoo import make_network
from mlma.core.catalog import networks_for
from mlma.core.flat_weights import dummy_timestep
from tests.support.samples import IMAGE, small_config

TRUNCATED = 0.87962566  # standard deviation of a normal distribution that is cut off at two standard deviations


def make(name: str, dueling: bool = False, **flags: Any) -> Network:
    tf.random.set_seed(1)
    network = make_network(small_config(agent_name=name, num_stacked_frames=4, **flags), IMAGE, dueling)
    network(dummy_timestep(IMAGE, 1, 1), network.initial_state(1))
    return network


def matrices(network: Any) -> list[Any]:
    """All weights but biases, each as [inputs, outputs]."""
    arrays = [v.numpy() for v in network.trainable_variables if "/b" not in v.name]
    return [array.reshape(-1, array.shape[-1]) for array in arrays]


def assert_truncated_normal(matrix: Any) -> None:
    limit = 2 / np.sqrt(len(matrix))
    assert 0.8 * limit < np.abs(matrix).max() <= limit * 1.0001
    assert matrix.std() == pytest.approx(TRUNCATED * limit / 2, rel=4 / np.sqrt(matrix.size))


def assert_uniform(matrix: Any, limit: float) -> None:
    assert 0.97 * limit < np.abs(matrix).max() <= limit * 1.0001
    assert matrix.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("name", networks_for("image"))
def test_released_layers_are_truncated_normals_of_one_over_the_root_of_their_inputs(name: str, dueling: bool) -> None:
    network = make(name, dueling, initializers="released")
    core = {id(v) for v in network._core.trainable_variables} if network._core else set()
    for variable in network.trainable_variables:
        if id(variable) in core:
            continue  # tested below
        if variable.name.endswith("/b:0"):
            assert not np.any(variable)
        else:
            assert_truncated_normal(variable.numpy().reshape(-1, variable.shape[-1]))


def test_the_lstm_of_a_released_actor_critic_is_glorot_uniform_over_both_its_matrices() -> None:
    """TensorFlow 1's LSTMBlockCell has one matrix for input and hidden state: 4 x 256 outputs."""
    inputs = 256 + 1 + 4
    for name in ("ShallowLSTMAgent", "ResNetLSTMAgent"):
        from_hidden, from_input = matrices(make(name, initializers="released")._core)
        assert (from_hidden.shape, from_input.shape) == ((256, 1024), (inputs, 1024))
        for matrix in (from_hidden, from_input):
            assert_uniform(matrix, np.sqrt(6 / (inputs + 256 + 4 * 256)))
    encoder = InstructionEncoder(glorot=True)
    encoder(tf.ones([1, 2], tf.int32))
    for matrix in matrices(encoder._lstm):
        assert_uniform(matrix, np.sqrt(6 / (20 + 64 + 4 * 64)))


def test_the_lstm_of_released_q_networks_and_the_usual_one_are_truncated_normals() -> None:
    networks = (
        make("ConvLSTMAgent", dueling=True, initializers="released"),
        make("ConvLSTMAgent"),
        make("ResNetLSTMAgent"),
    )
    for network in networks:
        for matrix in matrices(network._core):
            assert_truncated_normal(matrix)


def test_the_forget_bias_is_1_with_all_initialisers() -> None:
    """With an input of zeros, the cell keeps sigmoid(1) of its state."""
    for glorot in (False, True):
        lstm = ResetLSTM(3, glorot)
        _, (_, cell) = lstm(tf.zeros([1, 2, 5]), tf.zeros([1, 2], bool), (tf.zeros([2, 3]), tf.ones([2, 3])))
        np.testing.assert_allclose(cell, 1 / (1 + np.exp(-1)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "orthogonal"),
    [
        ("ShallowConvNetAgent", 3),
        ("SimpleConvNetAgent", 4),
        ("ConvNetAgent", 3),
        ("ShallowLSTMAgent", 3),
        ("ResNetAgent", 0),
    ],
)
def test_by_default_convolutional_torsos_are_orthogonal_and_the_policy_is_small(name: str, orthogonal: int) -> None:
    network = make(name)
    assert sum(map(is_orthogonal, matrices(network._torso))) == orthogonal
    assert np.abs(network._policy.w).max() <= 0.0201
    assert sum(map(is_orthogonal, matrices(make(name, initializers="released")._torso))) == 0
    assert sum(map(is_orthogonal, matrices(make(name, dueling=True)._dueling))) == 2


def is_orthogonal(matrix: Any) -> bool:
    """With the gain of ReLU: rows or columns have the square 2, and 0 with each other."""
    product = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    return bool(np.allclose(product, 2 * np.eye(len(product)), atol=1e-3))
