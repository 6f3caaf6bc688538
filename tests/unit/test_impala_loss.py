"""IMPALA's loss: which reward, action and value belong to a transition, and which steps are not transitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.impala import Impala
from agents.ops import vtrace
from agents.reward_clipping import clip_rewards
from mlma.acting.action_noise import NoiseGenerator
from mlma.core.config import Config
from mlma.core.types import Sample, TimeStep
from tests.support.samples import VECTOR, as_tensors, make_impala, random_sample, small_config

STEPS = 6  # transitions; the sample has one step more
END = 3  # the last step of the first episode, in tests with two


def config(**changes: Any) -> Config:
    return small_config(batch_size=1, unroll_length=STEPS, **changes)


def one_episode(seed: int = 1) -> Sample:
    """A sample of one environment, with random values, within one episode."""
    sample = random_sample(seed, config(), firsts=0.0)
    return changed(sample, "discount", slice(None), 1.0)


def two_episodes(discount: float) -> Sample:
    """The first episode has its last observation at END; it terminated (discount 0) or was truncated (discount 1)."""
    sample = changed(one_episode(), "is_first", END + 1, True)
    return changed(sample, "discount", END, discount)


def changed(sample: Sample, field: str, where: Any, value: Any) -> Sample:
    """A copy in which `field` of the time steps or of the act outputs has `value` at the steps `where`."""
    name = "timesteps" if field in TimeStep._fields else "act_outputs"
    nest = getattr(sample.trajectory, name)
    array = getattr(nest, field).copy()
    array[where] = value
    return sample._replace(trajectory=sample.trajectory._replace(**{name: nest._replace(**{field: array})}))


def steps_of(sample: Sample, start: int, stop: int) -> Sample:
    """The steps start .. stop of a sample, both included."""

    def select(nest: Any) -> Any:
        return tf.nest.map_structure(lambda x: x[start : stop + 1], nest)

    trajectory = sample.trajectory
    trajectory = trajectory._replace(timesteps=select(trajectory.timesteps), act_outputs=select(trajectory.act_outputs))
    return sample._replace(trajectory=trajectory)


def loss_and_gradient(sample: Sample, agent: Impala | None = None) -> Any:
    """One vector: the loss, then its gradient."""
    agent = agent or make_impala(config())
    with tf.GradientTape() as tape:
        total = agent.loss(as_tensors(sample)).total
    gradients = tape.gradient(total, agent.network.trainable_variables)
    return np.concatenate([[total.numpy()], *(g.numpy().ravel() for g in gradients)])


def assert_same(one: Any, two: Any) -> None:
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def assert_matters(sample: Sample, field: str, where: Any, value: Any, matters: bool) -> None:
    """Asserts whether the loss depends on `field` at the steps `where`, by setting it to `value`."""
    one, two = loss_and_gradient(sample), loss_and_gradient(changed(sample, field, where, value))
    assert (abs(one[0] - two[0]) > 1e-4) == matters, f"{field} at {where}"
    if not matters:
        assert_same(one, two)


@pytest.mark.parametrize(
    ("field", "where", "value"),
    [
        ("reward", 0, 0.9),  # arrived before this trajectory
        ("discount", 0, 0.0),
        ("is_first", 0, True),
        ("action", STEPS, 1),  # belongs to the next trajectory
        ("logits", STEPS, 7.0),
        ("value", slice(None), 9.0),  # the learner computes its own
        ("last_action", slice(None), 1),  # not an input of this network
        ("episode_return", slice(None), 99.0),
    ],
)
def test_what_does_not_belong_to_a_transition_of_the_trajectory_does_not_matter(
    field: str, where: Any, value: Any
) -> None:
    sample = changed(one_episode(), "action", STEPS, 0)
    assert_matters(sample, field, where, value, matters=False)


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_all_that_belongs_to_a_transition_matters(step: int) -> None:
    sample = one_episode()
    assert_matters(sample, "observation", step, 3.0, matters=True)
    if step > 0:  # fields that arrive with a step
        assert_matters(sample, "reward", step, -0.95, matters=True)
        assert_matters(sample, "discount", step, 0.0, matters=True)
    if step < STEPS:  # fields of the action that is taken from it
        assert_matters(changed(sample, "action", step, 0), "action", step, 2, matters=True)
        likely = 4 * np.eye(3)[sample.trajectory.act_outputs.action[step]]  # keeps rho below the threshold
        assert_matters(sample, "logits", step, likely, matters=True)


@pytest.mark.parametrize("discount", [0.0, 1.0])
@pytest.mark.parametrize(
    ("field", "where", "value"),
    [
        ("reward", END + 1, 0.9),
        ("discount", END + 1, 0.0),
        ("action", END, 1),
        ("logits", END, 7.0),
        ("last_action", END + 1, 1),
    ],
)
def test_the_step_into_a_new_episode_is_not_a_transition(field: str, where: int, value: Any, discount: float) -> None:
    assert_matters(changed(two_episodes(discount), "action", END, 0), field, where, value, matters=False)


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_two_episodes_in_one_trajectory_are_learned_from_separately(discount: float) -> None:
    sample = two_episodes(discount)
    separate = loss_and_gradient(steps_of(sample, 0, END)) + loss_and_gradient(steps_of(sample, END + 1, STEPS))
    assert_same(loss_and_gradient(sample), separate)


def test_an_episode_that_starts_at_the_last_step_does_not_affect_the_one_before() -> None:
    sample = changed(one_episode(), "is_first", STEPS, True)
    assert_same(loss_and_gradient(sample), loss_and_gradient(steps_of(sample, 0, STEPS - 1)))


def test_a_truncated_episode_bootstraps_from_its_last_observation_and_a_terminated_one_does_not() -> None:
    assert_matters(two_episodes(discount=1.0), "observation", END, 3.0, matters=True)
    assert_matters(two_episodes(discount=0.0), "observation", END, 3.0, matters=False)


def test_a_life_loss_ends_the_return_but_not_the_episode() -> None:
    sample = changed(one_episode(), "discount", END, 0.0)  # without `is_first` after it
    separate = loss_and_gradient(steps_of(sample, 0, END)) + loss_and_gradient(steps_of(sample, END, STEPS))
    assert_same(loss_and_gradient(sample), separate)


def test_losses_are_summed_over_the_batch() -> None:
    agent = make_impala(config())
    once = random_sample(3, small_config(batch_size=2, unroll_length=STEPS))

    def twice(nest: Any, axis: int) -> Any:
        return tf.nest.map_structure(lambda x: np.concatenate([x, x], axis=axis), nest)

    trajectory = once.trajectory
    doubled = once._replace(
        trajectory=trajectory._replace(
            timesteps=twice(trajectory.timesteps, 1), act_outputs=twice(trajectory.act_outputs, 1)
        )
    )
    assert_same(loss_and_gradient(doubled, agent), 2 * loss_and_gradient(once, agent))


def test_the_terms_of_the_loss_are_weighted_by_the_flags() -> None:
    sample = as_tensors(one_episode())

    def total(**changes: Any) -> float:
        return float(make_impala(config(**changes)).loss(sample).total)

    neither = total(baseline_cost=0.0, entropy_cost=0.0)
    value = total(baseline_cost=1.0, entropy_cost=0.0) - neither
    entropy = total(baseline_cost=0.0, entropy_cost=1.0) - neither
    assert value > 0
    assert entropy == pytest.approx(-STEPS * np.log(3), rel=1e-2)
    both = neither + 0.5 * value + 0.01 * entropy
    assert total(baseline_cost=0.5, entropy_cost=0.01) == pytest.approx(both, rel=1e-4)


def test_the_policy_clip_removes_the_gradient_of_actions_that_have_moved_far_enough() -> None:
    clip = 0.3
    settings = config(policy_clip=clip, baseline_cost=0.0, entropy_cost=0.0)
    agent, sample = make_impala(settings), one_episode()
    timesteps, acted = sample.trajectory.timesteps, sample.trajectory.act_outputs
    output, _ = agent.network(as_tensors(sample).trajectory.timesteps, agent.initial_state(1))
    rng = np.random.default_rng(4)
    sample = changed(sample, "logits", slice(None), output.logits.numpy() + rng.normal(size=output.logits.shape))
    returns = vtrace.from_logits(
        sample.trajectory.act_outputs.logits[:-1], output.logits[:-1], acted.action[:-1],
        settings.learner.discounting * timesteps.discount[1:], np.clip(timesteps.reward[1:], -1, 1),
        output.value[:-1], output.value[-1],
    )  # fmt: skip
    expected, kept = 0.0, []
    for t in range(STEPS):
        advantage, ratio = float(returns.pg_advantages[t, 0]), float(np.exp(returns.log_rhos[t, 0]))
        kept.append(ratio < 1 + clip if advantage > 0 else ratio > 1 / (1 + clip))
        expected -= kept[-1] * advantage * float(returns.target_action_log_probs[t, 0])
    assert 0 < sum(kept) < STEPS
    assert float(agent.loss(as_tensors(sample)).total) == pytest.approx(expected, rel=1e-4)
    unclipped = make_impala(config(policy_clip=0.0, baseline_cost=0.0, entropy_cost=0.0)).loss(as_tensors(sample)).total
    assert abs(float(unclipped) - expected) > 1e-3


def test_a_metric_says_which_share_of_the_policy_gradient_the_clip_removed() -> None:
    """With discount 0 and a network of zeros, values are 0 and an advantage is min(1, pi / mu) times the reward."""
    rewards = [0.8, 0.4, -0.6, -0.5, 0.7, 0.9]
    ratios = [2.0, 1.0, 0.5, 2.0, 0.5, 2.0]  # pi / mu of the action taken; pi is 1/3
    sample = changed(changed(one_episode(), "action", slice(None), 0), "discount", slice(None), 0.0)
    sample = changed(sample, "reward", slice(1, None), np.array(rewards, np.float32)[:, None])
    sample = changed(sample, "is_first", STEPS, True)  # masks the last transition
    mu = 1 / (3 * np.array(ratios, np.float32))
    behaviour = np.log(np.stack([mu, (1 - mu) / 2, (1 - mu) / 2], axis=-1))
    sample = as_tensors(changed(sample, "logits", slice(STEPS), behaviour[:, None]))
    shares = {}
    for clip in (0.0, 0.5, 1.5):
        agent = make_impala(config(policy_clip=clip))
        for variable in agent.network.variables:
            variable.assign(tf.zeros_like(variable))
        shares[clip] = float(agent.loss(sample).metrics["policy/clipped"])
    assert shares[0.0] == shares[1.5] == 0  # no clip, and one that no ratio reaches
    removed, kept = 0.8 + 0.3, 0.4 + 0.5 + 0.35  # steps 0 and 2 moved with their advantage, step 3 against it
    assert shares[0.5] == pytest.approx(removed / (removed + kept), rel=1e-5)


def test_without_any_advantage_the_share_that_the_clip_removed_is_zero() -> None:
    sample = changed(one_episode(), "is_first", slice(None), True)
    assert float(make_impala(config(policy_clip=0.5)).loss(as_tensors(sample)).metrics["policy/clipped"]) == 0


def test_rewards_are_clipped_as_in_the_released_code() -> None:
    rewards = tf.constant([-10.0, -1.0, -0.5, 0.0, 0.5, 1.0, 10.0])
    np.testing.assert_allclose(clip_rewards(rewards, "abs_one"), [-1, -1, -0.5, 0, 0.5, 1, 1])
    np.testing.assert_allclose(clip_rewards(rewards, "none"), rewards)
    asymmetric = [5 * np.tanh(r / 5) * (0.3 if r < 0 else 1) for r in rewards.numpy()]
    np.testing.assert_allclose(clip_rewards(rewards, "soft_asymmetric"), asymmetric, rtol=1e-6)
    assert asymmetric[0] == pytest.approx(-1.446041, rel=1e-5)
    assert asymmetric[-1] == pytest.approx(4.820138, rel=1e-5)


def test_the_loss_uses_clipped_rewards() -> None:
    sample = changed(one_episode(), "reward", 2, 1.0)
    assert_matters(sample, "reward", 2, 100.0, matters=False)


def test_metrics_are_finite_numbers_and_priorities_one_per_trajectory() -> None:
    settings = small_config()
    output = make_impala(settings).loss(as_tensors(random_sample(5, settings)))
    assert output.priorities.shape == [settings.learner.batch_size]
    assert all(np.isfinite(value) and value.shape == [] for value in output.metrics.values())


def test_actions_are_drawn_from_the_policy() -> None:
    agent = make_impala(config())
    agent.network.trainable_variables[0].assign([0.0, 1.0, -1.0])  # the policy's bias
    timesteps = random_sample(6, small_config(batch_size=1)).trajectory.timesteps
    timestep = tf.nest.map_structure(lambda x: tf.constant(np.repeat(x[0], 20_000, axis=0)), timesteps)  # [E, ...]
    noise = NoiseGenerator(1, np.zeros(20_000)).draw()
    output, _ = agent.act(timestep, agent.initial_state(20_000), noise)
    frequencies = np.bincount(output.action, minlength=VECTOR.num_actions) / 20_000
    assert frequencies.max() > 0.5
    np.testing.assert_allclose(frequencies, tf.nn.softmax(output.logits[0]), atol=0.02)


def test_each_level_has_its_own_clipping() -> None:
    rewards, level = tf.constant([[-10.0, -10.0, -10.0], [2.0, 2.0, 2.0]]), tf.constant([[0, 1, 2]] * 2)
    clipped = clip_rewards(rewards, "abs_one,none,soft_asymmetric", level)
    np.testing.assert_allclose(clipped, [[-1, -10, -1.446041], [1, 2, 5 * np.tanh(0.4)]], rtol=1e-5)
