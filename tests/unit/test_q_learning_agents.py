"""Ape-X's and R2D2's losses: what is compared with what, what no gradient flows through, and how they act."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents import make_agent
from agents.apex import Apex
from agents.ops.value_learning import batched_index, signed_hyperbolic, signed_parabolic
from agents.r2d2 import R2D2
from mlma.acting.action_noise import NoiseGenerator
from mlma.acting.trajectory_writer import env_indices
from mlma.core.flat_weights import dummy_timestep
from mlma.core.types import ActionNoise, LossOutput, NetworkState, Sample
from tests.support.samples import IMAGE, VECTOR, as_tensors, random_sample, small_config

N, BURN_IN, LENGTH = 3, 4, 6


def settings(algorithm: str, **changes: Any) -> Any:
    window = N if algorithm == "apex" else BURN_IN + LENGTH
    values = dict(
        algorithm=algorithm, agent_name="MLPAgent" if algorithm == "apex" else "MLPLSTMAgent", n_step=N, burn_in=BURN_IN,
        sequence_length=LENGTH, target_period=2, batch_size=5, unroll_length=window,
    )  # fmt: skip
    return small_config(**(values | changes))


def make(algorithm: str, spec: Any = VECTOR, **changes: Any) -> tuple[Any, Any]:
    """An agent whose target network differs from its network."""
    config = settings(algorithm, **changes)
    tf.random.set_seed(3)
    agent: Any = make_agent(config, spec)
    for variable in agent.network.variables:
        variable.assign_add(0.3 * tf.random.normal(variable.shape))
    return agent, config


def sample_of(config: Any, agent: Any, seed: int = 1, firsts: float = 0.15) -> Sample:
    sample = random_sample(seed, config, firsts=firsts)
    rng = np.random.default_rng(seed)
    state = tf.nest.map_structure(
        lambda x: None if x is None else rng.normal(size=x.shape).astype(np.float32),
        agent.initial_state(config.learner.batch_size),
    )
    sample = sample._replace(importance_weights=rng.random(config.learner.batch_size).astype(np.float32))
    return sample._replace(trajectory=sample.trajectory._replace(agent_state=state))


def gradient(agent: Any, sample: Sample) -> tuple[LossOutput, Any]:
    with tf.GradientTape() as tape:
        output = agent.loss(as_tensors(sample))
    gradients = tape.gradient(output.total, agent.network.trainable_variables)
    return output, np.concatenate([g.numpy().ravel() for g in gradients])


def q_of(network: Any, timesteps: Any, state: Any) -> Any:
    timesteps, state = tf.nest.map_structure(lambda x: None if x is None else tf.constant(x), (timesteps, state))
    return network(timesteps, state)[0].logits.numpy().astype(np.float64)


def test_ape_x_loss_is_the_weighted_squared_n_step_double_q_error_of_the_first_step() -> None:
    agent, config = make("apex", batch_size=200)
    sample = sample_of(config, agent)
    steps, acted = sample.trajectory.timesteps, sample.trajectory.act_outputs
    online = q_of(agent.network, steps, sample.trajectory.agent_state)
    target = q_of(agent._target, steps, sample.trajectory.agent_state)
    wanted, errors = 0.0, []
    for b in range(200):
        total, weight, at = 0.0, 1.0, 0
        while at < N and not steps.is_first[at + 1, b]:
            at += 1
            total += weight * np.clip(steps.reward[at, b], -1, 1)
            weight *= 0.99 * steps.discount[at, b]
        total += weight * target[at, b, online[at, b].argmax()]
        errors.append(total - online[0, b, acted.action[0, b]])
        wanted += sample.importance_weights[b] * 0.5 * errors[-1] ** 2 / 200
    output, _ = gradient(agent, sample)
    assert float(output.total) == pytest.approx(wanted, rel=1e-4)
    np.testing.assert_allclose(output.priorities, np.abs(errors), rtol=1e-3, atol=1e-5)


def test_r2d2_loss_is_over_the_steps_of_one_game_after_the_burn_in_with_rescaled_values() -> None:
    agent, config = make("r2d2", batch_size=60, reward_clipping="none")
    sample = sample_of(config, agent)
    steps, acted = sample.trajectory.timesteps, sample.trajectory.act_outputs
    online, target = (q_of(net, steps, sample.trajectory.agent_state) for net in (agent.network, agent._target))
    best = online.argmax(-1)[..., None]
    values = signed_parabolic(tf.constant(np.take_along_axis(target, best, -1)[..., 0])).numpy()
    wanted, priorities = 0.0, []
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
            total = float(signed_hyperbolic(tf.constant(total + weight * values[at, b], tf.float64)))
            errors.append(total - online[t, b, acted.action[t, b]])
        absolute = np.abs(errors) if errors else np.zeros(1)
        wanted += sample.importance_weights[b] * 0.5 * float(np.sum(absolute**2)) / 60
        priorities.append(0.9 * absolute.max() + 0.1 * absolute.mean())
    output, _ = gradient(agent, sample)
    assert float(output.total) == pytest.approx(wanted, rel=1e-3)
    np.testing.assert_allclose(output.priorities, priorities, rtol=1e-2, atol=1e-4)


def test_no_gradient_flows_through_the_burn_in_though_its_state_matters() -> None:
    """System 003 learned through it. What a step before the burn-in's end does to the loss must not be learned."""
    agent, config = make("r2d2")
    sample = as_tensors(sample_of(config, agent, firsts=0.0))
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
    warmer = steps._replace(observation=tf.concat([observation[:BURN_IN] + 1, observation[BURN_IN:]], 0))
    other = agent.loss(sample._replace(trajectory=trajectory._replace(timesteps=warmer))).total
    assert abs(float(other) - float(total)) > 1e-4


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_no_gradient_flows_through_targets_or_into_the_target_network(algorithm: str) -> None:
    agent, config = make(algorithm)
    sample = as_tensors(sample_of(config, agent, firsts=0.0))
    with tf.GradientTape() as tape:
        total = agent.loss(sample).total
    assert all(g is None for g in tape.gradient(total, agent.target_variables))
    # Where every return ends at once there is nothing to bootstrap from: only the value of the action is learned.
    ended = sample.trajectory.timesteps._replace(discount=tf.zeros_like(sample.trajectory.timesteps.discount))
    one = gradient(agent, sample._replace(trajectory=sample.trajectory._replace(timesteps=ended)))[1]
    for slow in agent.target_variables:
        slow.assign_add(tf.ones_like(slow))
    two = gradient(agent, sample._replace(trajectory=sample.trajectory._replace(timesteps=ended)))[1]
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_losses_are_means_over_the_batch(algorithm: str) -> None:
    agent, config = make(algorithm)
    once = sample_of(config, agent)

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
    np.testing.assert_allclose(gradient(agent, doubled)[1], gradient(agent, once)[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_the_target_network_is_a_copy_of_some_steps_ago(algorithm: str) -> None:
    agent, _ = make(algorithm)

    def equal() -> bool:
        return all(np.array_equal(s, v) for s, v in zip(agent.target_variables, agent.network.variables, strict=True))

    assert not equal()
    agent.on_learner_step(1)
    assert not equal()
    agent.on_learner_step(2)
    assert equal()


def test_a_new_agent_starts_with_equal_networks() -> None:
    agent: Any = make_agent(settings("apex"), VECTOR)
    assert agent.target_variables
    for slow, variable in zip(agent.target_variables, agent.network.variables, strict=True):
        np.testing.assert_array_equal(slow, variable)


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_actors_see_their_own_errors_as_the_learner_would_with_their_weights(algorithm: str) -> None:
    """Where the lookahead stays within the trajectory; q-values of the acting network in place of the target network's."""
    agent, config = make(algorithm)
    agent._copy()
    steps = sample_of(settings("apex", unroll_length=12), agent).trajectory.timesteps
    q = q_of(agent.network, steps, agent.initial_state(5)).astype(np.float32)
    action = np.random.default_rng(5).integers(3, size=(13, 5)).astype(np.int32)
    acted = sample_of(config, agent).trajectory.act_outputs._replace(action=action, logits=q, value=q.max(-1))
    tensors = tf.nest.map_structure(tf.constant, (steps, acted))
    found = agent.initial_priorities(*tensors).numpy()
    assert found.shape == (12, 5)
    values = q.max(-1).astype(np.float64)
    if algorithm == "r2d2":
        values = signed_parabolic(tf.constant(values)).numpy()
    for b in range(5):
        for t in range(12):
            total, weight, at = 0.0, 1.0, t
            while at < min(t + N, 12) and not steps.is_first[at + 1, b]:
                at += 1
                total += weight * np.clip(steps.reward[at, b], -1, 1)
                weight *= 0.99 * steps.discount[at, b]
            total += weight * values[at, b]
            if algorithm == "r2d2":
                total = float(signed_hyperbolic(tf.constant(total, tf.float64)))
            assert found[t, b] == pytest.approx(abs(total - q[t, b, action[t, b]]), abs=1e-4)


@pytest.mark.parametrize("algorithm", ["apex", "r2d2"])
def test_environments_act_at_random_as_often_as_their_place_on_the_ladder_says(algorithm: str) -> None:
    agent, _ = make(algorithm, exploration_base=0.8, exploration_exponent=3.0, test_epsilon=0.0)
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


def test_the_ladder_is_dealt_out_to_all_actors_of_all_learners() -> None:
    everyone = np.concatenate([env_indices(number, 6, 4) for number in range(6)])
    assert sorted(everyone) == list(range(24))
    assert all(env_indices(number, 6, 4).max() >= 18 > 6 > env_indices(number, 6, 4).min() for number in range(6))


def test_dueling_heads_have_a_value_and_advantages_whose_mean_is_taken_off() -> None:
    agent, _ = make("apex")
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
    """The loss rebuilds stacks; the actor's own network saw the same."""
    name = "ShallowConvNetAgent" if algorithm == "apex" else "ConvLSTMAgent"
    agent, config = make(algorithm, IMAGE, agent_name=name, num_stacked_frames=4, batch_size=2)
    sample = random_sample(2, config, IMAGE, firsts=0.2)
    state = agent.initial_state(2)
    sample = sample._replace(trajectory=sample.trajectory._replace(agent_state=state))
    output = agent.loss(as_tensors(sample))
    assert np.isfinite(output.total)
    if algorithm == "apex":
        one = tf.nest.map_structure(lambda x: tf.constant(x[:1]), sample.trajectory.timesteps)
        q = agent.network(one, state)[0].logits[0]
        assert float(output.metrics["q/mean"]) == pytest.approx(
            float(tf.reduce_mean(batched_index(q, sample.trajectory.act_outputs.action[0]))), rel=1e-3
        )


def test_ape_x_refuses_a_network_with_memory() -> None:
    with pytest.raises(ValueError, match="--agent_name=MLPLSTMAgent: has an LSTM"):
        Apex(settings("apex", agent_name="MLPLSTMAgent"), VECTOR)
    assert R2D2(settings("r2d2", agent_name="MLPAgent"), VECTOR).initial_state(1) == NetworkState(None, None)
