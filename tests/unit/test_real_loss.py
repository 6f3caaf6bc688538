"""IMPALA's loss with real-valued actions, against V-trace by hand and a reference in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.impala import Impala
from mlma.core.flat_weights import FlatWeights
from mlma.core.types import ActionNoise, BoxPart, EnvSpec, Sample
from tests.support.samples import REAL, VECTOR, as_tensors, make_impala, random_sample, small_config

STEPS = 5
ONE = VECTOR._replace(num_actions=0, action_parts=(BoxPart((True,)),))  # one real number
GAMMA = 0.99


def make(spec: EnvSpec = ONE, **flags: Any) -> Impala:
    defaults = dict(agent_name="SeparateMLPAgent", batch_size=1, unroll_length=STEPS, reward_clipping="none")
    return make_impala(small_config(**(defaults | dict(baseline_cost=0.0, entropy_cost=0.0) | flags)), spec)


def sample_of(spec: EnvSpec, seed: int = 1, batch: int = 1) -> Sample:
    """Within one episode that does not end."""
    config = small_config(batch_size=batch, unroll_length=STEPS)
    sample = random_sample(seed, config, spec, firsts=0.0)
    sample.trajectory.timesteps.discount[:] = 1.0
    sample.trajectory.act_outputs.logits[:] *= 0.3
    return sample


def log_density(action: Any, mean: Any, log_spread: Any) -> Any:
    return -0.5 * ((action - mean) / np.exp(log_spread)) ** 2 - log_spread - 0.5 * np.log(2 * np.pi)


def vtrace(log_rhos: Any, rewards: Any, values: Any, lam: float = 1.0) -> Any:
    """Advantages [T] of section 4.2 by the recursion of remark 1, in float64; `values` has one more."""
    rhos = np.minimum(1, np.exp(log_rhos))
    errors, advantages = 0.0, np.zeros(len(rewards))
    for t in reversed(range(len(rewards))):
        advantages[t] = rhos[t] * (rewards[t] + GAMMA * (values[t + 1] + errors) - values[t])
        errors = rhos[t] * (rewards[t] + GAMMA * values[t + 1] - values[t]) + GAMMA * lam * rhos[t] * errors
    return advantages


def test_vtrace_by_hand_with_two_steps_of_one_number() -> None:
    """A network of zeros is N(0, 1) with values 0. rho is the ratio of two densities, and both are in closed form."""
    agent = make(unroll_length=2)
    for variable in agent.network.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    sample = random_sample(1, small_config(batch_size=1, unroll_length=2), ONE, firsts=0.0)
    timesteps, acted = sample.trajectory.timesteps, sample.trajectory.act_outputs
    timesteps.discount[:] = 1.0
    timesteps.reward[:, 0] = 99.0, 2.0, -3.0
    acted.action[:, 0, 0] = 0.5, -1.0, 77.0
    acted.logits[:, 0] = [[1.0, 0.0], [-0.5, np.log(2.0)], [5.0, 5.0]]  # N(1, 1), then N(-0.5, 2)
    # pi(0.5) / mu(0.5) = exp(-0.125 + 0.125) = 1; pi(-1) / mu(-1) = exp(-0.5) / (exp(-0.03125) / 2) = 1.2512 -> 1
    ratio = 2 * np.exp(-0.5 + 0.03125)
    advantages = [2.0 + GAMMA * -3.0, -3.0]  # both rhos are cut to 1
    log_pi = [-0.125 - 0.5 * np.log(2 * np.pi), -0.5 - 0.5 * np.log(2 * np.pi)]
    output = agent.loss(as_tensors(sample))
    assert float(output.total) == pytest.approx(-(log_pi[0] * advantages[0] + log_pi[1] * advantages[1]), rel=1e-5)
    assert float(output.metrics["vtrace/rho_mean"]) == pytest.approx((1 + ratio) / 2, rel=1e-5)
    assert float(output.metrics["policy/entropy"]) == pytest.approx(0.5 * np.log(2 * np.pi * np.e), rel=1e-5)
    assert float(output.metrics["policy/spread"]) == pytest.approx(1)


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_loss_and_gradient_equal_a_reference_in_numpy(bounds: str) -> None:
    """The gradient of the policy's bias and log spread, by finite differences of the reference in float64."""
    spec = ONE._replace(action_parts=(BoxPart((True, False)),))
    agent = make(spec, action_bounds=bounds, entropy_cost=0.3, batch_size=2)
    sample = as_tensors(sample_of(spec, batch=2))
    output, _ = agent.network(sample.trajectory.timesteps, agent.initial_state(2))
    parameters, values = (x.numpy().astype(np.float64) for x in output)
    acted = sample.trajectory.act_outputs
    actions, behaviour = acted.action.numpy()[:-1].astype(np.float64), acted.logits.numpy()[:-1].astype(np.float64)
    rewards = sample.trajectory.timesteps.reward.numpy()[1:].astype(np.float64)
    squashed = np.array([bounds == "tanh", False])
    grid = np.linspace(-9, 9, 4001)
    weights = np.exp(-0.5 * grid**2) / np.exp(-0.5 * grid**2).sum()

    def entropy(mean: Any, log_spread: Any) -> Any:
        slope = np.log(1 / np.cosh(mean[..., None] + np.exp(log_spread)[..., None] * grid) ** 2)
        return (log_spread + 0.5 * np.log(2 * np.pi * np.e) + squashed * (slope * weights).sum(axis=-1)).sum(axis=-1)

    def reference(shift: Any, advantages: Any = None) -> tuple[float, Any]:
        mean, log_spread = parameters[:-1, :, :2] + shift[:2], parameters[:-1, :, 2:] + shift[2:]
        slope = squashed * np.log(1 - np.tanh(actions) ** 2)
        log_pi = (log_density(actions, mean, log_spread) - slope).sum(axis=-1)
        if advantages is None:
            log_mu = (log_density(actions, behaviour[..., :2], behaviour[..., 2:]) - slope).sum(axis=-1)
            columns = [vtrace((log_pi - log_mu)[:, b], rewards[:, b], values[:, b]) for b in range(2)]
            advantages = np.stack(columns, axis=-1)
        return float((-log_pi * advantages).sum() - 0.3 * entropy(mean, log_spread).sum()), advantages

    total, advantages = reference(np.zeros(4))
    with tf.GradientTape() as tape:
        loss = agent.loss(sample).total
    assert float(loss) == pytest.approx(total, rel=1e-3)
    head = agent.network._policy
    gradients = np.concatenate(tape.gradient(loss, [head._means.b, head._log_spread]))
    step = 1e-5
    differences = [
        (reference(step * unit, advantages)[0] - reference(-step * unit, advantages)[0]) / (2 * step)
        for unit in np.eye(4)
    ]
    np.testing.assert_allclose(gradients, differences, rtol=2e-3, atol=2e-3)
    assert np.abs(gradients).max() > 1


def test_the_policy_clip_acts_on_the_ratio_of_the_joint_density() -> None:
    agent, sample = make(REAL, policy_clip=0.2), as_tensors(sample_of(REAL, batch=1))
    unclipped = make(REAL, policy_clip=0.0)
    output, _ = agent.network(sample.trajectory.timesteps, agent.initial_state(1))
    distribution = agent._distribution
    acted = sample.trajectory.act_outputs
    log_pi = distribution.log_prob(output.logits[:-1], acted.action[:-1]).numpy()[:, 0].astype(np.float64)
    log_mu = distribution.log_prob(acted.logits[:-1], acted.action[:-1]).numpy()[:, 0].astype(np.float64)
    advantages = vtrace(log_pi - log_mu, sample.trajectory.timesteps.reward.numpy()[1:, 0], output.value.numpy()[:, 0])
    kept = np.where(advantages > 0, log_pi - log_mu < np.log(1.2), log_pi - log_mu > -np.log(1.2))
    assert 0 < kept.sum() < STEPS
    assert float(agent.loss(sample).total) == pytest.approx(-(log_pi * advantages * kept).sum(), rel=1e-3)
    assert float(unclipped.loss(sample).total) == pytest.approx(-(log_pi * advantages).sum(), rel=1e-3)


def test_the_spread_of_the_network_depends_on_the_observation_and_that_of_a_parameter_does_not() -> None:
    for spread, varies in (("parameter", False), ("network", True)):
        agent = make(action_spread=spread, initial_spread=0.5)
        steps = as_tensors(sample_of(ONE)).trajectory.timesteps
        log_spread = agent.network(steps, agent.initial_state(1))[0].logits[..., 1].numpy()
        np.testing.assert_allclose(log_spread, np.log(0.5), atol=0.1)
        assert (log_spread.std() > 0) == varies
        with tf.GradientTape() as tape:
            loss = agent.loss(as_tensors(sample_of(ONE))).total
        assert all(g is not None for g in tape.gradient(loss, agent.network._policy.trainable_variables))


def test_the_spread_stays_within_what_a_learner_accepts() -> None:
    agent = make()
    for value, expected in ((100.0, 2.0), (-100.0, -5.0)):
        agent.network._policy._log_spread.assign([value])
        steps = as_tensors(sample_of(ONE)).trajectory.timesteps
        assert (agent.network(steps, agent.initial_state(1))[0].logits[..., 1].numpy() == expected).all()


def test_policy_and_value_have_networks_of_their_own() -> None:
    agent = make(baseline_cost=1.0)
    assert agent.network._value_torso
    steps = as_tensors(sample_of(ONE)).trajectory.timesteps
    with tf.GradientTape(persistent=True) as tape:
        output, _ = agent.network(steps, agent.initial_state(1))
        value, mean = tf.reduce_sum(output.value), tf.reduce_sum(output.logits)
    own = {id(v) for v in agent.network._value_torso.trainable_variables}
    for variable in agent.network.trainable_variables:
        name = variable.name
        of_value = (
            id(variable) in own or variable is agent.network.value_head.w or variable is agent.network.value_head.b
        )
        assert (tape.gradient(value, variable) is not None) == of_value, name
        assert (tape.gradient(mean, variable) is not None) == (not of_value), name


def test_the_last_action_is_an_input_as_the_environment_received_it() -> None:
    for bounds, inputs in (("clip", [1.0, 0, 0, 1, -4.0]), ("tanh", [np.tanh(3.0), 0, 0, 1, -4.0])):
        network = make(REAL, agent_name="MLPLSTMAgent", action_bounds=bounds).network
        encoded = network._encode_action(tf.constant([[[3.0, 2.0, -4.0]]]))
        np.testing.assert_allclose(encoded[0, 0], inputs, rtol=1e-6)


def test_acting_samples_what_the_logits_say_and_depends_on_the_noise_alone() -> None:
    agent = make(REAL, normalize_observations="on")
    timestep = tf.nest.map_structure(lambda x: x[0], as_tensors(sample_of(REAL, batch=4)).trajectory.timesteps)
    noise = ActionNoise(tf.fill([4, 3], 0.5), tf.zeros([4]))
    output, _ = agent.act(timestep, agent.initial_state(4), noise)
    np.testing.assert_allclose(output.action[:, 0], output.logits[:, 0], atol=1e-6)  # the median is the mean
    np.testing.assert_allclose(output.action[:, 2], output.logits[:, 5], atol=1e-6)
    assert output.action.shape == (4, 3)
    again, _ = agent.act(timestep, agent.initial_state(4), noise)
    np.testing.assert_array_equal(again.action, output.action)
    assert FlatWeights(agent.network).count > 0
