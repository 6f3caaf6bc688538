"""V-trace against a literal implementation of equation (1) of the paper, a sum of products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.ops import vtrace

STEPS, BATCH = 7, 3
Threshold = float | None


def inputs(seed: int, *trailing: int) -> dict[str, Any]:
    """float64 arguments of from_importance_weights; about a third of the discounts are 0."""
    rng = np.random.default_rng(seed)
    shape = (STEPS, BATCH, *trailing)
    return {
        "log_rhos": rng.normal(size=shape),
        "discounts": 0.9 * (rng.random(shape) > 0.3),
        "rewards": rng.normal(size=shape),
        "values": rng.normal(size=shape),
        "bootstrap_value": rng.normal(size=shape[1:]),
    }


def tensors(arrays: dict[str, Any]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(array) for name, array in arrays.items()}


def clip(rhos: Any, threshold: Threshold) -> Any:
    return rhos if threshold is None else np.minimum(threshold, rhos)


def reference(arrays: dict[str, Any], rho_bar: Threshold, pg_rho_bar: Threshold, lambda_: float) -> tuple[Any, Any]:
    """Targets and policy-gradient advantages, in numpy."""
    discounts, rewards, values = arrays["discounts"], arrays["rewards"], arrays["values"]
    rhos = np.exp(arrays["log_rhos"])
    cs = lambda_ * np.minimum(1.0, rhos)
    next_values = np.concatenate([values[1:], arrays["bootstrap_value"][None]])
    deltas = clip(rhos, rho_bar) * (rewards + discounts * next_values - values)
    vs = values.copy()
    for s in range(len(values)):
        for t in range(s, len(values)):
            vs[s] += np.prod(discounts[s:t] * cs[s:t], axis=0) * deltas[t]  # eq. (1)
    next_vs = np.concatenate([vs[1:], arrays["bootstrap_value"][None]])
    return vs, clip(rhos, pg_rho_bar) * (rewards + discounts * next_vs - values)


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("rho_bar", "pg_rho_bar"), [(1.0, 1.0), (3.7, 2.2), (None, None), (None, 0.5), (0.0, None)])
def test_targets_are_equation_1_of_the_paper(rho_bar: Threshold, pg_rho_bar: Threshold, lambda_: float) -> None:
    for seed in range(3):
        arrays = inputs(seed)
        expected = reference(arrays, rho_bar, pg_rho_bar, lambda_)
        returns = vtrace.from_importance_weights(
            **tensors(arrays), clip_rho_threshold=rho_bar, clip_pg_rho_threshold=pg_rho_bar, lambda_=lambda_
        )
        np.testing.assert_allclose(returns.vs, expected[0], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(returns.pg_advantages, expected[1], rtol=1e-10, atol=1e-12)


def test_dimensions_after_the_batch_are_independent() -> None:
    arrays = inputs(4, 2, 2)
    returns = vtrace.from_importance_weights(**tensors(arrays))
    expected = reference(arrays, 1.0, 1.0, 1.0)
    np.testing.assert_allclose(returns.vs, expected[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(returns.pg_advantages, expected[1], rtol=1e-10, atol=1e-12)


def test_on_policy_with_lambda_1_it_is_the_n_step_return() -> None:
    arrays = inputs(5) | {"log_rhos": np.zeros((STEPS, BATCH))}
    expected, after = np.zeros((STEPS, BATCH)), arrays["bootstrap_value"]
    for t in reversed(range(STEPS)):
        after = expected[t] = arrays["rewards"][t] + arrays["discounts"][t] * after
    returns = vtrace.from_importance_weights(**tensors(arrays))
    np.testing.assert_allclose(returns.vs, expected, rtol=1e-10)
    np.testing.assert_allclose(returns.pg_advantages, expected - arrays["values"], rtol=1e-10, atol=1e-12)


def test_nothing_leaks_across_a_discount_of_zero() -> None:
    arrays = inputs(6)
    arrays["discounts"][3] = 0
    changed = {name: array.copy() for name, array in arrays.items()}
    for name in ("log_rhos", "rewards", "values"):
        changed[name][4:] += 100.0
    changed["bootstrap_value"] += 100.0
    one, two = (vtrace.from_importance_weights(**tensors(a)) for a in (arrays, changed))
    np.testing.assert_array_equal(one.vs[:4], two.vs[:4])
    np.testing.assert_array_equal(one.pg_advantages[:4], two.pg_advantages[:4])


def test_no_gradient_flows_through_targets_or_advantages() -> None:
    arguments = tensors(inputs(7))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(list(arguments.values()))
        returns = vtrace.from_importance_weights(**arguments)
    for target in returns:
        assert tape.gradient(target, list(arguments.values())) == [None] * len(arguments)


def test_logits_and_importance_weights_give_the_same_targets() -> None:
    rng = np.random.default_rng(8)
    arrays = inputs(8)
    behaviour, target = rng.normal(size=(2, STEPS, BATCH, 5))
    actions = rng.integers(5, size=(STEPS, BATCH))

    def log_prob(logits: Any) -> Any:
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return np.take_along_axis(log_probs, actions[..., None], -1)[..., 0]

    arrays["log_rhos"] = log_prob(target) - log_prob(behaviour)
    expected = vtrace.from_importance_weights(**tensors(arrays))
    rest = tensors({name: array for name, array in arrays.items() if name != "log_rhos"})
    returns = vtrace.from_logits(tf.constant(behaviour), tf.constant(target), tf.constant(actions), **rest)
    np.testing.assert_allclose(returns.vs, expected.vs, rtol=1e-10)
    np.testing.assert_allclose(returns.pg_advantages, expected.pg_advantages, rtol=1e-10)
    np.testing.assert_allclose(returns.log_rhos, arrays["log_rhos"], rtol=1e-10)
    np.testing.assert_allclose(returns.target_action_log_probs, log_prob(target), rtol=1e-10)
    np.testing.assert_allclose(returns.behaviour_action_log_probs, log_prob(behaviour), rtol=1e-10)


def test_policies_far_apart_give_finite_targets() -> None:
    arrays = {name: array.astype(np.float32) for name, array in inputs(9).items()}
    arrays["log_rhos"] *= 200  # exp overflows float32
    for part in vtrace.from_importance_weights(**tensors(arrays)):
        assert np.isfinite(part).all()


@pytest.mark.parametrize("name", ["clip_rho_threshold", "clip_pg_rho_threshold"])
def test_a_negative_threshold_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=-0.5"):
        vtrace.from_importance_weights(**tensors(inputs(0)), **{name: -0.5})


def test_a_bootstrap_value_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="incompatible"):
        vtrace.from_importance_weights(**tensors(inputs(0) | {"bootstrap_value": np.zeros(BATCH + 1)}))


# The cases of the published vtrace_test.py, with its inputs and expectations.


def published_inputs(batch: int, steps: int = 5) -> dict[str, Any]:
    """numpy arrays, float64 among them."""

    def count(*shape: int) -> Any:
        return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    return {
        "discounts": np.array([[0.9 / (b + 1) for b in range(batch)]] * steps),
        "rewards": count(steps, batch),
        "values": count(steps, batch) / batch,
        "bootstrap_value": count(batch) + 1.0,
    }


def unknown(*shape: int | None) -> tf.TensorSpec:
    return tf.TensorSpec(shape, tf.float32)


@pytest.mark.parametrize("batch", [1, 5])
def test_published_vtrace_of_numpy_arrays(batch: int) -> None:
    log_rhos = 5 * (np.arange(5 * batch, dtype=np.float32).reshape(5, batch) / (5 * batch) - 0.5)  # [-2.5, 2.5)
    arrays = published_inputs(batch) | {"log_rhos": log_rhos}
    returns = vtrace.from_importance_weights(**arrays, clip_rho_threshold=3.7, clip_pg_rho_threshold=np.float64(2.2))
    expected = reference(arrays, 3.7, 2.2, 1.0)
    for ours, theirs in zip(returns, expected, strict=True):
        assert ours.dtype == tf.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_published_log_probs_of_numpy_arrays(batch: int) -> None:
    logits = np.arange(7 * batch * 3, dtype=np.float64).reshape(7, batch, 3) + 10
    actions = np.random.default_rng(0).integers(3, size=(7, batch))
    expected = np.array([0.0, 1.0, 2.0])[actions] - np.log(1 + np.e + np.e**2)
    for kind in (np.int64, np.int32, np.uint8):
        log_probs = vtrace.log_probs_from_logits_and_actions(logits, actions.astype(kind))
        np.testing.assert_allclose(log_probs, expected, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_published_vtrace_from_logits_whose_sizes_the_graph_does_not_know(batch: int) -> None:
    arrays, rng = published_inputs(batch), np.random.default_rng(1)
    behaviour, target = rng.normal(size=(2, 5, batch, 3)).astype(np.float32)
    actions = rng.integers(3, size=(5, batch)).astype(np.int32)
    given: dict[str, Any] = {"clip_rho_threshold": None, "clip_pg_rho_threshold": None}
    graph = tf.function(
        lambda *inputs: vtrace.from_logits(*inputs, **given),
        input_signature=[
            *[unknown(None, None, None)] * 2, tf.TensorSpec([None, None], tf.int32),
            *[unknown(None, None)] * 3, unknown(None),
        ],
        autograph=False,
    )  # fmt: skip
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    returns = graph(behaviour, target, actions, *arrays.values())
    log_probs = [vtrace.log_probs_from_logits_and_actions(logits, actions) for logits in (target, behaviour)]
    expected = reference(arrays | {"log_rhos": (log_probs[0] - log_probs[1]).numpy()}, None, None, 1.0)
    np.testing.assert_allclose(returns.vs, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(returns.pg_advantages, expected[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(returns.log_rhos, log_probs[0] - log_probs[1], rtol=1e-5, atol=1e-6)
    known = vtrace.from_logits(behaviour, target, actions, **arrays, **given)
    for one, two in zip(returns, known, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


HIGHER_RANK = [unknown(None, None, 1), unknown(None, None, 1), unknown(None, None, 42), unknown(None, None, 42)]


def test_published_higher_rank_inputs_for_importance_weights() -> None:
    graph = tf.function(
        vtrace.from_importance_weights, input_signature=[*HIGHER_RANK, unknown(None, 42)], autograph=False
    )
    assert graph.get_concrete_function().structured_outputs.vs.shape[-1] == 42
    arrays = {name: array.astype(np.float32) for name, array in inputs(10, 42).items()}
    arrays |= {name: arrays[name][..., :1] for name in ("log_rhos", "discounts")}
    expected = reference(arrays, 1.0, 1.0, 1.0)
    for returns in (graph(*arrays.values()), vtrace.from_importance_weights(**arrays)):
        np.testing.assert_allclose(returns.vs, expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(returns.pg_advantages, expected[1], rtol=1e-4, atol=1e-5)


def test_published_inconsistent_rank_inputs_for_importance_weights() -> None:
    graph = tf.function(vtrace.from_importance_weights, input_signature=[*HIGHER_RANK, unknown(None)], autograph=False)
    with pytest.raises(ValueError, match="must have rank 2"):
        graph.get_concrete_function()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("log_rhos", (STEPS, BATCH, 1)),
        ("discounts", ()),
        ("discounts", (STEPS,)),
        ("discounts", (1, BATCH)),  # a step too few is an error, not a broadcast over time
        ("rewards", (STEPS, BATCH + 1)),
        ("values", (STEPS, 1)),
        ("bootstrap_value", (BATCH, 1)),
    ],
)
def test_shapes_that_do_not_broadcast_to_the_values_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"rank|ncompatible|steps"):
        vtrace.from_importance_weights(**inputs(0) | {name: np.zeros(shape)})


def test_a_time_loop_runs_in_the_graph_only_where_the_number_of_steps_is_unknown() -> None:
    for steps, loops in ((STEPS, False), (None, True)):
        specs = [unknown(steps, BATCH)] * 4 + [unknown(BATCH)]
        graph = tf.function(vtrace.from_importance_weights, input_signature=specs, autograph=False)
        operations = {operation.type for operation in graph.get_concrete_function().graph.get_operations()}
        assert any("While" in operation for operation in operations) == loops
