"""bfloat16: what is computed in it, how far results are from those in float32, and when it is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.networks.zoo import make_network
from mlma.core import precision
from mlma.core.catalog import networks_for
from mlma.core.config import Config
from mlma.core.flat_weights import dummy_timestep
from mlma.core.precision import with_precision
from mlma.core.types import EnvSpec
from tests.support.samples import IMAGE, as_tensors, make_impala, random_sample, random_timesteps, small_config

BFLOAT16 = {"precision": "bfloat16", "acting_precision": "bfloat16"}


def build(name: str, dueling: bool, **flags: Any) -> Any:
    tf.random.set_seed(1)
    network = make_network(small_config(agent_name=name, num_stacked_frames=4, **flags), IMAGE, dueling)
    network(dummy_timestep(IMAGE, 1, 1), network.initial_state(1))
    return network


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("name", networks_for("image"))
def test_weights_and_outputs_are_float32_and_close_to_those_of_float32(name: str, dueling: bool, steps: int) -> None:
    reference, network = build(name, dueling), build(name, dueling, **BFLOAT16)
    assert [(v.name, v.shape, v.dtype) for v in network.variables] == [
        (v.name, v.shape, v.dtype) for v in reference.variables
    ]
    for ours, theirs in zip(network.variables, reference.variables, strict=True):
        ours.assign(theirs)
    timesteps = tf.nest.map_structure(tf.constant, random_timesteps(np.random.default_rng(2), IMAGE, steps, 5))
    outputs, expected = (n(timesteps, n.initial_state(5))[0] for n in (network, reference))
    for ours, theirs in zip(outputs, expected, strict=True):
        assert ours.dtype == tf.float32
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert 0 < error < 0.03  # bfloat16 has eight bits, 0.4 %


def test_the_gradient_points_where_that_of_float32_does() -> None:
    def gradient(**flags: Any) -> Any:
        agent = make_impala(config := small_config(agent_name="SimpleConvNetAgent", **flags), IMAGE)
        sample = as_tensors(random_sample(3, config, IMAGE))
        with tf.GradientTape() as tape:
            total = agent.loss(sample).total
        gradients = tape.gradient(total, agent.network.trainable_variables)
        assert all(g.dtype == tf.float32 for g in gradients)
        return np.concatenate([np.ravel(g) for g in gradients])

    ours, theirs = gradient(**BFLOAT16), gradient()
    assert (ours != theirs).any()
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.995


def chosen(monkeypatch: pytest.MonkeyPatch, gain: float, has: bool = True, **flags: Any) -> tuple[str, str]:
    monkeypatch.setattr(precision, "measure_gain", lambda: gain)
    monkeypatch.setattr(precision, "_has_bfloat16", lambda: has)
    received: list[Config] = []

    def make_agent(config: Config, spec: EnvSpec) -> Any:
        received.append(config)

    config = small_config(**({"agent_name": "ShallowConvNetAgent"} | flags))
    with_precision(make_agent, config)(config, IMAGE)
    return received[0].learner.precision, received[0].actor.acting_precision


def test_auto_is_bfloat16_only_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("bfloat16", "bfloat16")
    neither = ("float32", "float32")
    assert chosen(monkeypatch, gain=1.3) == both
    assert chosen(monkeypatch, gain=1.0) == neither
    assert chosen(monkeypatch, gain=1.3, has=False) == neither
    assert chosen(monkeypatch, gain=1.3, deterministic=True) == neither
    assert chosen(monkeypatch, gain=1.3, agent_name="MLPAgent") == neither
    assert chosen(monkeypatch, gain=0.5, precision="bfloat16") == ("bfloat16", "float32")
    assert chosen(monkeypatch, gain=1.3, acting_precision="float32") == ("bfloat16", "float32")


@pytest.mark.parametrize(("flags", "expected"), [("fpu avx2 avx512_bf16 avx", True), ("fpu avx2 avx512f", False)])
def test_processors_with_bfloat16_are_recognised(flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"processor\t: 0\nmodel name\t: avx512_bf16\nflags\t\t: {flags}\n"
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert precision._has_bfloat16() == expected


def test_the_gain_is_a_ratio_of_measured_times() -> None:
    assert 0.1 < precision.measure_gain(repetitions=2) < 20
