"""Ape-X and R2D2: their losses against slow implementations, where no gradient flows, and how they act."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents import make_agent
from agents.apex import Apex
from agents.ops import value_learning
from agents.r2d2 import R2D2
from mlma.acting.action_noise import NoiseGenerator
from mlma.acting.trajectory_writer import env_indices
from mlma.core.flat_weights import dummy_timestep
from mlma.core.types import ActionNoise, LossOutput, NetworkState, Sample
from tests.support.samples import IMAGE, VECTOR, as_tensors, random_sample, small_config

N, BURN_IN, LENGTH = 3, 4, 6


def settings(algorithm: str, **changes: Any) -> Any:
    agent_name, window = ("MLPAgent", N) if algorithm == "apex" else ("MLPLSTMAgent", BURN_IN + LENGTH)
    values = dict(
        algorithm=algorithm, agent_name=agent_name, n_step=N, burn_in=BURN_IN, sequence_length=LENGTH,
        target_period=2, batch_size=5, unroll_length=window,
    )  # fmt: skip
    return small_config(**(values | changes))


def make_trained(algorithm: str, spec: Any = VECTOR, **changes: Any) -> tuple[Any, Any]:
    """An agent whose target network differs from its network."""
    config = settings(algorithm, **changes)
    tf.random.set_seed(3)
    agent: Any = make_agent(config, spec)
    for variable in agent.network.variables:
        variable.assign_add(0.3 * tf.random.normal(variable.shape))
    return agent, config


def sample_for(config: Any, agent: Any, seed: int = 1, firsts: float = 0.15) -> Sample:
    """A random sample with a random agent state and random importance weights."""
    sample = random_sample(seed, config, firsts=firsts)
    rng = np.random.default_rng(seed)
    state = tf.nest.map_structure(
        lambda x: None if x is None else rng.normal(size=x.shape).astype(np.float32),
        agent.initial_state(config.learner.batch_size),
    )
    sample = sample._replace(importance_weights=rng.random(config.learner.batch_size).astype(np.float32))
    return sample._replace(trajectory=sample.trajectory._replace(agent_state=state))


def loss_and_gradient(agent: Any, sample: Sample) -> tuple[LossOutput, Any]:
    """What `loss` returns, and its gradient as one vector."""
    with tf.GradientTape() as tape:
        output = agent.loss(as_tensors(sample))
    gradients = tape.gradient(output.total, agent.network.trainable_variables)
    return output, np.concatenate([g.numpy().ravel() for g in gradients])


def q_values(network: Any, timesteps: Any, state: Any) -> Any:
    """q-values [T, B, A] in float64."""
    timesteps, state = tf.nest.map_structure(lambda x: None if x is None else tf.constant(x), (timesteps, state))
    return network(timesteps, state)[0].logits.numpy().astype(np.float64)


def test_ape_x_loss_is_the_weighted_squared_n_step_double_q_error_of_the_first_step() -> None:
    agent, config = make_trained("apex", batch_size=200)
    sample = sample_for(config, agent)
    steps, acted = sample.trajectory.timesteps, sample.trajectory.act_outputs
    online = q_values(agent.network, steps, sample.trajectory.agent_state)
    target = q_values(agent._target_network, steps, sample.trajectory.agent_state)
    expected, errors = 0.0, []
    for b in range(200):
        total, weight, at = 0.0, 1.0, 0
        while at < N and not steps.is_first[at + 1, b]:
            at += 1
            total += weight * np.clip(steps.reward[at, b], -1, 1)
            weight *= 0.99 * steps.discount[at, b]
        total += weight * target[at, b, online[at, b].argmax()]
        errors.append(total - online[0, b, acted.action[0, b]])
        expected += sample.importance_weights[b] * 0.5 * errors[-1] ** 2 / 200
    output, _ = loss_and_gradient(agent, sample)
    assert float(output.total) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(output.priorities, np.abs(errors), rtol=1e-3, atol=1e-5)


def test_r2d2_loss_is_over_the_steps_of_one_episode_after_the_burn_in_with_rescaled_values() -> None:
    agent, config = make_trained("r2d2", batch_size=60, reward_clipping="none")
    sample = sample_for(config, agent)
    steps, acted = sample.trajectory.timesteps, sample.trajectory.act_outputs
    online, target = (
        q_values(net, steps, sample.trajectory.agent_state) for net in (agent.network, agent._target_network)
    )
    best = online.argmax(-1)[..., None]
    values = value_learning.signed_parabolic(tf.constant(np.take_along_axis(target, best, -1)[..., 0])).numpy()
    expected, priorities = 0.0, []
    for b in range(60):
        errors = []
        for t in range(BURN_IN, BURN_IN + LENGTH):
            if steps.is_first[t + 1, b]:
                break
            total, weight, at = 0.0, 1.0, t
            while at < min(t + N, BURN_IN + LENGTH) and not steps.is_first[at + 1, b]:
                at += 1
                total += weight * steps.reward[at, b]
                weight *= 0.99 * steps.discount[at, b]
            total = float(value_learning.signed_hyperbolic(tf.constant(total + weight * values[at, b], tf.float64)))
            errors.append(total - online[t, b, acted.action[t, b]])
        absolute = np.abs(errors) if errors else np.zeros(1)
        expected += sample.importance_weights[b] * 0.5 * float(np.sum(absolute**2)) / 60
        priorities.append(0.9 * absolute.max() + 0.1 * absolute.mean())
    output, _ = loss_and_gradient(agent, sample)
    assert float(output.total) == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(output.priorities, priorities, rtol=1e-2, atol=1e-4)


def test_no_gradient_flows_through_the_burn_in_though_its_state_matters() -> None:
    """System 003 learned through the burn-in. Steps in it affect the loss, but no gradient must flow to them."""
    agent, config = make_trained("r2d2")
    sample = as_tensors(sample_for(config, agent, firsts=0.0))
    trajectory = sample.trajectory
    observation = tf.identity(trajectory.timesteps.observation)
    core = trajectory.agent_state.core
    with tf.GradientTape() as tape:
        tape.watch([observation, *core])
        steps = trajectory.timesteps._replace(observation=observation)
        total = agent.loss(sample._replace(trajectory=trajectory._replace(timesteps=steps))).total
    by_observation, *by_core = tape.gradient(total, [observation, *core], unconnected_gradients="zero")
    assert (by_observation[:BURN_IN].numpy() == 0).all()
    assert (np.abs(by_observation[BURN_IN:-1].numpy()).sum(-1) > 0).all()
    assert all((part.numpy() == 0).all() for part in by_core)
    changed = steps._replace(observation=tf.concat([observation[:BURN_IN] + 1, observation[BURN_IN:]], 0))
    other = agent.loss(sample._replace(trajectory=trajectory._replace(timesteps=changed))).total
    assert abs(float(other) - float(total)) > 1e-4


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_no_gradient_flows_through_targets_or_into_the_target_network(algorithm: str) -> None:
    agent, config = make_trained(algorithm)
    sample = as_tensors(sample_for(config, agent, firsts=0.0))
    with tf.GradientTape() as tape:
        total = agent.loss(sample).total
    assert all(g is None for g in tape.gradient(total, agent.target_variables))
    # Where every return ends at once, targets do not depend on the target network.
    ended = sample.trajectory.timesteps._replace(discount=tf.zeros_like(sample.trajectory.timesteps.discount))
    sample = sample._replace(trajectory=sample.trajectory._replace(timesteps=ended))
    one = loss_and_gradient(agent, sample)[1]
    for target in agent.target_variables:
        target.assign_add(tf.ones_like(target))
    two = loss_and_gradient(agent, sample)[1]
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_losses_are_means_over_the_batch(algorithm: str) -> None:
    agent, config = make_trained(algorithm)
    once = sample_for(config, agent)

    def twice(nest: Any, axis: int) -> Any:
        return tf.nest.map_structure(lambda x: None if x is None else np.concatenate([x, x], axis=axis), nest)

    trajectory = once.trajectory
    doubled = once._replace(
        trajectory=trajectory._replace(
            timesteps=twice(trajectory.timesteps, 1),
            act_outputs=twice(trajectory.act_outputs, 1),
            agent_state=twice(trajectory.agent_state, 0),
        ),
        importance_weights=twice(once.importance_weights, 0),
    )
    np.testing.assert_allclose(
        loss_and_gradient(agent, doubled)[1], loss_and_gradient(agent, once)[1], rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_the_target_network_is_copied_every_target_period(algorithm: str) -> None:
    agent, _ = make_trained(algorithm)

    def equal() -> bool:
        return all(np.array_equal(t, v) for t, v in zip(agent.target_variables, agent.network.variables, strict=True))

    assert not equal()
    agent.on_learner_step(1)
    assert not equal()
    agent.on_learner_step(2)
    assert equal()


def test_a_new_agent_starts_with_equal_networks() -> None:
    agent: Any = make_agent(settings("apex"), VECTOR)
    assert agent.target_variables
    for target, variable in zip(agent.target_variables, agent.network.variables, strict=True):
        np.testing.assert_array_equal(target, variable)


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_initial_priorities_are_the_errors_that_the_learner_would_compute_with_the_actors_weights(
    algorithm: str,
) -> None:
    """As far as the n steps stay within the trajectory; with the acting network as target network."""
    agent, config = make_trained(algorithm)
    agent._update_target()
    steps = sample_for(settings("apex", unroll_length=12), agent).trajectory.timesteps
    q = q_values(agent.network, steps, agent.initial_state(5)).astype(np.float32)
    action = np.random.default_rng(5).integers(3, size=(13, 5)).astype(np.int32)
    acted = sample_for(config, agent).trajectory.act_outputs._replace(action=action, logits=q, value=q.max(-1))
    tensors = tf.nest.map_structure(tf.constant, (steps, acted))
    priorities = agent.initial_priorities(*tensors).numpy()
    assert priorities.shape == (12, 5)
    values = q.max(-1).astype(np.float64)
    if algorithm == "r2d2":
        values = value_learning.signed_parabolic(tf.constant(values)).numpy()
    for b in range(5):
        for t in range(12):
            total, weight, at = 0.0, 1.0, t
            while at < min(t + N, 12) and not steps.is_first[at + 1, b]:
                at += 1
                total += weight * np.clip(steps.reward[at, b], -1, 1)
                weight *= 0.99 * steps.discount[at, b]
            total += weight * values[at, b]
            if algorithm == "r2d2":
                total = float(value_learning.signed_hyperbolic(tf.constant(total, tf.float64)))
            assert priorities[t, b] == pytest.approx(abs(total - q[t, b, action[t, b]]), abs=1e-4)


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_environments_take_random_actions_with_their_epsilon_of_the_ladder(algorithm: str) -> None:
    agent, _ = make_trained(algorithm, exploration_base=0.8, exploration_exponent=3.0, test_epsilon=0.0)
    step = tf.nest.map_structure(lambda x: tf.repeat(x, 4, axis=0), dummy_timestep(VECTOR, 1))
    greedy = agent.act(step, agent.initial_state(4), ActionNoise(tf.zeros([4]), tf.zeros([4])))[0]
    np.testing.assert_array_equal(greedy.action, tf.argmax(greedy.logits, -1))
    noise_generator = NoiseGenerator(1, agent.exploration_epsilons(np.arange(4), 4))
    act = tf.function(agent.act)
    others = np.mean(
        [act(step, agent.initial_state(4), noise_generator.draw())[0].action != greedy.action for _ in range(1500)],
        axis=0,
    )
    epsilons = [0.8 ** (1 + 3 * i / 3) for i in range(4)]
    np.testing.assert_allclose(others, [e * 2 / 3 for e in epsilons], atol=0.05)


def test_the_ladder_is_spread_over_all_actors_of_all_learners() -> None:
    by_actor = [env_indices(actor, 6, 4) for actor in range(6)]
    assert sorted(np.concatenate(by_actor)) == list(range(24))
    assert all(indices.max() >= 18 > 6 > indices.min() for indices in by_actor)


def test_dueling_heads_have_a_value_and_advantages_with_their_mean_subtracted() -> None:
    agent, _ = make_trained("apex")
    head = agent.network._dueling
    features = tf.random.normal([7, 64])
    q, value = head(features)
    np.testing.assert_allclose(tf.reduce_mean(q, -1), value, rtol=1e-4, atol=1e-5)
    advantages = head._actions(features)
    np.testing.assert_allclose(
        q - value[:, None], advantages - tf.reduce_mean(advantages, -1, keepdims=True), atol=1e-4
    )


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_windows_of_frames_are_stacked_as_an_actor_stacks_them(algorithm: str) -> None:
    """The stacks that the loss rebuilds are those that the acting network saw."""
    name = "ShallowConvNetAgent" if algorithm == "apex" else "ConvLSTMAgent"
    agent, config = make_trained(algorithm, IMAGE, agent_name=name, num_stacked_frames=4, batch_size=2)
    sample = random_sample(2, config, IMAGE, firsts=0.2)
    state = agent.initial_state(2)
    sample = sample._replace(trajectory=sample.trajectory._replace(agent_state=state))
    output = agent.loss(as_tensors(sample))
    assert np.isfinite(output.total)
    if algorithm == "apex":
        one = tf.nest.map_structure(lambda x: tf.constant(x[:1]), sample.trajectory.timesteps)
        q = agent.network(one, state)[0].logits[0]
        assert float(output.metrics["q/mean"]) == pytest.approx(
            float(tf.reduce_mean(value_learning.batched_index(q, sample.trajectory.act_outputs.action[0]))), rel=1e-3
        )


@pytest.mark.parametrize(("algorithm", "name", "clipped"), [
    ("r2d2", "ConvLSTMAgent", False), ("r2d2", "SimpleConvNetAgent", False), ("apex", "SimpleConvNetAgent", True),
    ("impala", "ConvLSTMAgent", True),
])  # fmt: skip
def test_r2d2_alone_sees_the_last_reward_as_it_is(algorithm: str, name: str, clipped: bool) -> None:
    """Kapturowski et al. 2019: the LSTM receives the reward, and rewards are not clipped."""
    agent: Any = make_agent(settings(algorithm, agent_name=name, num_stacked_frames=4), IMAGE)
    steps = tf.nest.map_structure(lambda x: tf.repeat(x, 4, axis=0), dummy_timestep(IMAGE, 1))
    steps = steps._replace(reward=tf.constant([0.5, 1.0, 7.0, -7.0]))
    noise = ActionNoise(tf.zeros([4]), tf.zeros([4]))
    half, one, seven, minus_seven = agent.act(steps, agent.initial_state(4), noise)[0].logits.numpy()
    assert np.abs(half - one).max() > 1e-5
    assert np.abs(seven - minus_seven).max() > 1e-5
    assert (np.abs(one - seven).max() < 1e-6) == clipped


def test_ape_x_refuses_a_network_with_memory() -> None:
    with pytest.raises(ValueError, match="--agent_name=MLPLSTMAgent: has an LSTM"):
        Apex(settings("apex", agent_name="MLPLSTMAgent"), VECTOR)
    assert R2D2(settings("r2d2", agent_name="MLPAgent"), VECTOR).initial_state(1) == NetworkState(None, None)
