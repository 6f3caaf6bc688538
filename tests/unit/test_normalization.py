"""Normalisation of observations: the statistics are those of all data of all learners, and travel with the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.networks.normalization import MAX_NORMALIZED, Normalizer
from mlma.core.flat_weights import FlatWeights
from mlma.core.types import ArraySpec, EnvSpec, Sample
from mlma.distributed.allreduce import SingleProcess
from mlma.learning.learner import Learner
from mlma.learning.run_state import RunState
from tests.support.samples import IMAGE, REAL, as_tensors, make_impala, make_metrics, random_sample, small_config

ON = {"normalize_observations": "on", "agent_name": "SeparateMLPAgent", "reward_clipping": "none"}


def data(seed: int, count: int, center: float = 0.0) -> Any:
    """Numbers [count, 3] whose means and spreads differ."""
    rng = np.random.default_rng(seed)
    return center + np.array([5.0, -300.0, 0.001]) + np.array([2.0, 50.0, 0.0003]) * rng.normal(size=(count, 3))


@pytest.mark.parametrize("center", [0.0, 2000.0])
def test_the_statistics_are_those_of_all_data_of_two_learners(center: float) -> None:
    learners = [Normalizer(3), Normalizer(3)]
    seen: list[Any] = []
    for step in range(30):
        batches = [data(2 * step + rank, 20 + 13 * rank, center) for rank in range(2)]
        if step % 5 == 4:  # one learner takes part without a sample
            batches.pop()
        seen += batches
        sums = sum(
            learner.batch_statistics(tf.constant(batch, tf.float32))
            for learner, batch in zip(learners, batches, strict=False)
        )
        for learner in learners:
            learner.update(sums)
    everything = np.concatenate(seen)
    for learner in learners:
        assert float(learner._count) == len(everything)
        np.testing.assert_allclose(learner._mean, everything.mean(axis=0), rtol=1e-5, atol=1e-5)
        columns = [0, 1] if center else [0, 1, 2]  # in float32, 0.0003 is lost next to 2,000
        np.testing.assert_allclose(
            np.sqrt(learner._variance)[columns], everything.std(axis=0)[columns], rtol=3e-3 if center else 1e-3
        )


def test_normalised_numbers_have_mean_0_and_spread_1_and_none_is_huge() -> None:
    normalizer, batch = Normalizer(3), data(1, 500)
    np.testing.assert_allclose(normalizer(tf.constant([[1.0, 0.5, -2.0]])), [[1.0, 0.5, -2.0]], rtol=1e-6)
    for _ in range(3):
        normalizer.update(normalizer.batch_statistics(tf.constant(batch, tf.float32)))
    normalised = normalizer(tf.constant(batch, tf.float32)).numpy()
    np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(normalised[:, :2].std(axis=0), 1, rtol=1e-3)
    assert (
        normalizer(tf.constant([[1e6, -1e6, 1.0]])).numpy() == [[MAX_NORMALIZED, -MAX_NORMALIZED, MAX_NORMALIZED]]
    ).all()


def test_nothing_changes_without_data_and_a_constant_number_stays_finite() -> None:
    normalizer = Normalizer(2)
    normalizer.update(tf.zeros([5]))
    assert [v.numpy().tolist() for v in normalizer.variables] == [0.0, [0.0, 0.0], [1.0, 1.0]]
    normalizer.update(normalizer.batch_statistics(tf.constant([[7.0, 1.0]] * 10)))
    before = [v.numpy() for v in normalizer.variables]
    normalizer.update(tf.zeros([5]))
    for variable, value in zip(normalizer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert np.isfinite(normalizer(tf.constant([[7.0, 2.0]]))).all()


def sample_of(seed: int, **changes: Any) -> Sample:
    """A sample whose observations have a mean of 50 and a spread of 3."""
    sample = random_sample(seed, small_config(**ON), REAL)
    observation = sample.trajectory.timesteps.observation * 3 + 50
    timesteps = sample.trajectory.timesteps._replace(observation=observation, **changes)
    return sample._replace(trajectory=sample.trajectory._replace(timesteps=timesteps))


def make_learner(config: Any, seed: int = 1) -> tuple[Learner, Any]:
    agent = make_impala(config, REAL, seed)
    return Learner(config, agent, 4, SingleProcess()), agent


def test_each_observation_counts_once_and_the_actor_normalises_as_the_learner(tmp_path: Path) -> None:
    config = small_config(**ON, popart=True, logdir=str(tmp_path))
    learner, agent = make_learner(config)
    samples = [sample_of(seed) for seed in range(6)]
    for sample in samples:
        learner.update(as_tensors(sample))
    seen = np.concatenate([s.trajectory.timesteps.observation[:-1].reshape(-1, 3) for s in samples])
    normalizer = agent.network.normalizer
    assert float(normalizer._count) == len(seen)
    np.testing.assert_allclose(normalizer._mean, seen.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(normalizer._variance), seen.std(axis=0), rtol=1e-4)

    actor = make_impala(config, REAL, seed=2)
    weights = FlatWeights(actor.network)
    assert weights.signature == learner.weights.signature
    weights.write(learner.weights.read().numpy().tobytes())
    steps = as_tensors(sample_of(9)).trajectory.timesteps
    theirs, ours = (a.network(steps, a.initial_state(2))[0] for a in (agent, actor))
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    np.testing.assert_array_equal(ours.value, theirs.value)

    state = RunState(config, learner, SingleProcess())
    assert state.save(make_metrics())
    resumed, fresh_agent = make_learner(config, seed=3)
    RunState(config, resumed, SingleProcess()).resume()
    for mine, theirs in zip(fresh_agent.network.normalizer.variables, normalizer.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(resumed.weights.read(), learner.weights.read())


def test_a_dropped_sample_does_not_count() -> None:
    learner, agent = make_learner(small_config(**ON))
    learner.update(as_tensors(sample_of(1)))
    before = [v.numpy() for v in agent.network.normalizer.variables]
    bad = sample_of(2)
    bad.trajectory.timesteps.observation[0, 0] = np.inf
    assert learner.update(as_tensors(bad)).dropped
    for variable, value in zip(agent.network.normalizer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_the_output_does_not_depend_on_the_unit_of_the_observations() -> None:
    agents = [make_impala(small_config(**ON), REAL) for _ in range(2)]
    outputs = []
    for agent, unit in zip(agents, (1.0, 1000.0), strict=True):
        sample = sample_of(3)
        timesteps = sample.trajectory.timesteps._replace(
            observation=sample.trajectory.timesteps.observation * np.float32(unit)
        )
        sample = as_tensors(sample._replace(trajectory=sample.trajectory._replace(timesteps=timesteps)))
        agent.update_statistics(agent.loss(sample).statistics)
        outputs.append(agent.network(sample.trajectory.timesteps, agent.initial_state(2))[0].value)
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-3)


def test_numbers_next_to_an_image_are_normalised_and_the_image_is_not() -> None:
    spec = EnvSpec(ArraySpec((40, 40, 3), "uint8"), 3, 1, {"vector": ArraySpec((2,), "float32")})
    config = small_config(agent_name="ShallowConvNetAgent", normalize_observations="on")
    network = make_impala(config, spec).network
    assert network.normalizer and network.normalizer._mean.shape == [2]
    assert make_impala(config, IMAGE).network.normalizer is None, "no numbers"
    assert make_impala(small_config(), REAL).network.normalizer is None, "off"
