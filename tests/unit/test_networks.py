"""The networks: recurrent state, and the shapes that the papers give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

from agents.action_selection import epsilon_greedy, sample_from_logits
from agents.networks.network import MASKED_LOGIT, Network
from agents.networks.recurrent import InstructionEncoder, ResetLSTM
from agents.networks.zoo import NETWORKS, make_network
from mlma.acting.action_noise import NoiseGenerator
from mlma.core.catalog import networks_for
from mlma.core.flat_weights import dummy_timestep
from mlma.core.types import ArraySpec, EnvSpec, NetworkState, TimeStep
from mlma.envs.spaces import MAX_WORDS, hash_words
from tests.support.samples import IMAGE, VECTOR, random_timesteps, small_config

ALL = sorted(NETWORKS)
IMAGE_NETWORKS = networks_for("image")
# DeepMind Lab with the actions of Espeholt et al. 2018, table D.2.
DMLAB = EnvSpec(ArraySpec((72, 96, 3), "uint8"), 9, 4, {"words": ArraySpec((MAX_WORDS,), "int32")})


def build(name: str, spec: EnvSpec, stack: int = 1, dueling: bool = False, **flags: Any) -> Network:
    """A network whose variables do not exist yet."""
    tf.random.set_seed(1)
    return make_network(small_config(agent_name=name, num_stacked_frames=stack, **flags), spec, dueling)


def make(name: str, spec: EnvSpec | None = None, **flags: Any) -> Network:
    spec = spec or (VECTOR if name in networks_for("vector") else IMAGE)
    network = build(name, spec, stack=4 if spec is IMAGE else 1, **flags)
    network(dummy_timestep(spec, 1, 1), network.initial_state(1))
    return network


def timesteps(name: str, steps: int, batch: int, firsts: float = 0.3) -> TimeStep:
    spec = VECTOR if name in networks_for("vector") else IMAGE
    return tf.nest.map_structure(tf.constant, random_timesteps(np.random.default_rng(2), spec, steps, batch, firsts))


def random_state(network: Network, batch: int) -> NetworkState:
    def fill(x: tf.Tensor) -> tf.Tensor:
        return (
            tf.random.uniform(x.shape, maxval=255, dtype=tf.int32) if x.dtype == tf.uint8 else tf.random.normal(x.shape)
        )

    state = network.initial_state(batch)
    return tf.nest.map_structure(lambda x: None if x is None else tf.cast(fill(x), x.dtype), state)


def assert_close(one: Any, two: Any) -> None:
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(two), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_an_unroll_equals_single_steps(name: str) -> None:
    network, inputs = make(name), timesteps(name, steps=5, batch=2)
    state = random_state(network, 2)
    expected, expected_state = network(inputs, state)
    outputs = []
    for t in range(5):
        output, state = network(tf.nest.map_structure(lambda x, t=t: x[t : t + 1], inputs), state)
        outputs.append(output)
    assert_close(tf.nest.map_structure(lambda *steps: tf.concat(steps, axis=0), *outputs), expected)
    assert_close(state, expected_state)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_in_shards_has_the_outputs_and_gradients_of_the_full_batch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = make(name), timesteps(name, steps=16, batch=24)
    state = random_state(network, 24)
    sizes = []
    original = Network._unroll

    def unroll(self: Network, timestep: TimeStep, state: NetworkState) -> Any:
        sizes.append(timestep.is_first.shape[1])
        return original(self, timestep, state)

    monkeypatch.setattr(Network, "_unroll", unroll)
    results = []
    for network._num_shards in (1, 3):
        with tf.GradientTape() as tape:
            output, after = network(inputs, state)
            loss = tf.reduce_sum(output.logits**2) + tf.reduce_sum(output.value)
        results.append((output, after, tape.gradient(loss, network.trainable_variables)))
    network(tf.nest.map_structure(lambda x: x[:1], inputs), state)  # acting
    assert sizes == [24, 8, 8, 8, 24]
    (*outputs, gradients), (*shard_outputs, shard_gradients) = results
    assert_close(outputs, shard_outputs)
    for one, other in zip(gradients, shard_gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * float(tf.reduce_max(tf.abs(one))))


@pytest.mark.parametrize("name", ALL)
def test_nothing_from_before_a_new_episode_reaches_it(name: str) -> None:
    network, inputs = make(name), timesteps(name, steps=4, batch=2)
    first = np.zeros((4, 2), bool)
    first[2, 0] = True  # a new episode in the first environment; that of the second continues
    one, _ = network(inputs._replace(is_first=tf.constant(first)), random_state(network, 2))
    other = tf.nest.map_structure(lambda x: tf.concat([x[:2][::-1], x[2:]], axis=0), inputs)
    two, _ = network(other._replace(is_first=tf.constant(first)), random_state(network, 2))
    assert_close([one.logits[2:, 0], one.value[2:, 0]], [two.logits[2:, 0], two.value[2:, 0]])
    if name not in ("MLPAgent", "SeparateMLPAgent"):  # which have no recurrent state
        assert not np.allclose(one.value[2:, 1], two.value[2:, 1])


@pytest.mark.parametrize("name", ALL)
def test_a_new_episode_at_step_0_ignores_the_agent_state(name: str) -> None:
    network, inputs = make(name), timesteps(name, steps=3, batch=2)
    inputs = inputs._replace(is_first=tf.constant([[True, True], [False, False], [False, False]]))
    assert_close(network(inputs, random_state(network, 2)), network(inputs, network.initial_state(2)))


def weight_shapes(network: snt.Module) -> list[tuple[int, ...]]:
    return sorted((tuple(v.shape) for v in network.trainable_variables), key=lambda shape: (len(shape), shape))


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_the_brightness_of_an_image_does_not_matter_if_pixels_are_centred(name: str) -> None:
    inputs = timesteps(name, 2, 3)
    dim = inputs._replace(observation=inputs.observation // 2)
    bright = dim._replace(observation=dim.observation + 90)
    dark = inputs._replace(observation=tf.zeros_like(inputs.observation))
    network = build(name, IMAGE)
    one, two, three = (network(each, network.initial_state(3))[0] for each in (dim, bright, dark))
    assert_close(one, two)
    assert float(tf.reduce_max(tf.abs(one.value - three.value))) > 1e-2
    network = build(name, IMAGE, pixel_scaling="unit")
    one, two = (network(each, network.initial_state(3))[0] for each in (dim, bright))
    assert float(tf.reduce_max(tf.abs(one.value - two.value))) > 1e-2


def test_the_shallow_network_has_the_shapes_of_the_paper() -> None:
    """84x84 -> 20x20x16 -> 9x9x32 -> 256: VALID padding."""
    heads = [(1,), (4,), (256, 1), (256, 4)]
    torso = [(16,), (8, 8, 4, 16), (32,), (4, 4, 16, 32), (256,), (9 * 9 * 32, 256)]
    assert weight_shapes(make("ShallowConvNetAgent")) == sorted(heads + torso, key=lambda shape: (len(shape), shape))


def test_the_simple_network_has_the_shapes_of_nature() -> None:
    """84x84 -> 20x20x32 -> 9x9x64 -> 7x7x64 -> 512, then the last reward and one of 4 actions."""
    heads = [(1,), (4,), (512 + 1 + 4, 1), (512 + 1 + 4, 4)]
    torso = [(32,), (8, 8, 4, 32), (64,), (4, 4, 32, 64), (64,), (3, 3, 64, 64), (512,), (7 * 7 * 64, 512)]
    assert weight_shapes(make("SimpleConvNetAgent")) == sorted(heads + torso, key=lambda shape: (len(shape), shape))


def test_the_deep_network_has_fifteen_convolutions_and_an_lstm_of_256() -> None:
    shapes = weight_shapes(make("ResNetLSTMAgent"))
    convolutions = [shape for shape in shapes if len(shape) == 4]
    expected = {(3, 3, 4, 16): 1, (3, 3, 16, 16): 4, (3, 3, 16, 32): 1, (3, 3, 32, 32): 9}
    assert {shape: convolutions.count(shape) for shape in convolutions} == expected
    assert (11 * 11 * 32, 256) in shapes
    assert (256 + 1 + 4, 4 * 256) in shapes
    assert (256, 4 * 256) in shapes


def test_the_deep_network_for_atari_is_the_deep_one_without_memory() -> None:
    """Espeholt et al. 2018, appendix G: a feed-forward network."""
    network, with_lstm = make("ResNetAgent"), make("ResNetLSTMAgent")
    assert network.initial_state(1).core is None
    assert weight_shapes(network._torso) == weight_shapes(with_lstm._torso)
    heads = [(1,), (4,), (256, 1), (256, 4)]
    assert weight_shapes(network) == sorted(
        heads + weight_shapes(with_lstm._torso), key=lambda shape: (len(shape), shape)
    )


@pytest.mark.parametrize(("name", "millions"), [("ShallowLSTMAgent", 1.2), ("ResNetLSTMAgent", 1.6)])
def test_the_networks_for_deepmind_lab_have_as_many_weights_as_figure_3_says(name: str, millions: float) -> None:
    weights = sum(int(np.prod(shape)) for shape in weight_shapes(make(name, DMLAB)))
    assert weights / 1e6 == pytest.approx(millions, abs=0.05)


def test_the_shallow_network_for_deepmind_lab_has_the_inputs_of_figure_3() -> None:
    """72x96 -> 17x23x16 -> 7x10x32 -> 256; LSTM with last reward, one of 9 actions, and 64 of the instruction."""
    shapes = weight_shapes(make("ShallowLSTMAgent", DMLAB))
    assert [shape for shape in shapes if len(shape) == 4] == [(4, 4, 16, 32), (8, 8, 3, 16)]
    assert (7 * 10 * 32, 256) in shapes
    assert (256 + 1 + 9 + 64, 4 * 256) in shapes


def test_gradient_flows_back_through_time_but_not_into_the_episode_before() -> None:
    network, inputs = make("ResNetLSTMAgent"), timesteps("ResNetLSTMAgent", steps=4, batch=2)
    reward = tf.random.uniform([4, 2], -0.5, 0.5)
    first = np.zeros((4, 2), bool)
    first[2, 1] = True
    with tf.GradientTape() as tape:
        tape.watch(reward)
        output, _ = network(inputs._replace(reward=reward, is_first=tf.constant(first)), network.initial_state(2))
        last = tf.reduce_sum(output.value[-1])
    gradient = tape.gradient(last, reward).numpy()
    assert (gradient[:, 0] != 0).all()
    assert (gradient[:2, 1] == 0).all()
    assert (gradient[2:, 1] != 0).all()


def test_the_hidden_state_is_the_output_and_the_cell_is_not() -> None:
    lstm = ResetLSTM(3)
    outputs, (hidden, cell) = lstm(tf.random.normal([4, 2, 5]), tf.zeros([4, 2], bool), lstm.initial_state(2))
    np.testing.assert_array_equal(hidden, outputs[-1])
    assert not np.allclose(cell, hidden)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_last_reward_and_action_are_inputs_where_the_paper_has_them_and_the_reward_is_clipped(name: str) -> None:
    network, inputs = make(name), timesteps(name, steps=1, batch=2, firsts=0.0)

    def logits(reward: float, action: int) -> Any:
        changed = inputs._replace(reward=tf.fill([1, 2], reward), last_action=tf.fill([1, 2], action))
        return network(changed, network.initial_state(2))[0].logits.numpy()

    has_inputs = name not in ("ShallowConvNetAgent", "ConvNetAgent", "ResNetAgent")
    assert np.array_equal(logits(1.0, 2), logits(50.0, 2))
    assert np.array_equal(logits(-1.0, 2), logits(-50.0, 2))
    assert np.array_equal(logits(1.0, 2), logits(0.5, 2)) != has_inputs
    assert np.array_equal(logits(1.0, 2), logits(1.0, 3)) != has_inputs


@pytest.mark.parametrize("dueling", [False, True])
def test_actions_that_a_level_does_not_have_are_never_chosen(dueling: bool) -> None:
    spec = VECTOR._replace(extras={"level": ArraySpec((), "int32")}, actions_by_level=((0, 2), (1, 0, 2)))
    network = build("MLPAgent", spec, dueling=dueling)
    steps = tf.nest.map_structure(tf.constant, random_timesteps(np.random.default_rng(2), VECTOR, 3, 4))
    steps = steps._replace(extras={"level": tf.constant([[0, 1, 0, 1]] * 3)})
    logits = network(steps, network.initial_state(4))[0].logits.numpy()
    assert (logits[:, [0, 2], 1] == MASKED_LOGIT).all()
    assert np.abs(logits[:, [0, 2]][..., [0, 2]]).max() < 100
    assert np.abs(logits[:, [1, 3]]).max() < 100
    noise_generator = NoiseGenerator(1, np.ones(4))  # always random actions
    noise = [noise_generator.draw() for _ in range(300)]
    for drawn in (
        np.stack([epsilon_greedy(tf.constant(logits[0]), each) for each in noise]),
        np.stack([sample_from_logits(tf.constant(logits[0] / 100), each.uniform) for each in noise]),
    ):
        assert [sorted(set(drawn[:, i].tolist())) for i in range(4)] == [[0, 2], [0, 1, 2]] * 2


def words(*texts: str) -> Any:
    return tf.constant([[hash_words(text) for text in texts]])


def test_an_instruction_is_encoded_by_its_words_in_their_order() -> None:
    encoder = InstructionEncoder()
    encoded = encoder(words("pick the red balloon", "pick the balloon red", "", "pick the red balloon")[0]).numpy()
    np.testing.assert_array_equal(encoded[0], encoded[3])
    assert np.abs(encoded[0] - encoded[1]).max() > 1e-3
    np.testing.assert_array_equal(encoded[2], 0)
    state = encoder._lstm.initial_state(1)  # word by word, up to the last one
    for word in hash_words("pick the red balloon")[:4]:
        output, state = encoder._lstm(encoder._embedding(tf.constant([word])), state)
    np.testing.assert_allclose(encoded[0], output[0], atol=1e-6)


@pytest.mark.parametrize("name", ["ResNetLSTMAgent", "MLPAgent"])
def test_words_and_numbers_next_to_the_observation_matter(name: str) -> None:
    spec = VECTOR if name in networks_for("vector") else EnvSpec(ArraySpec((40, 40, 3), "uint8"), 4, 1)
    spec = spec._replace(extras={"vector": ArraySpec((2,), "float32"), "words": ArraySpec((MAX_WORDS,), "int32")})
    network = build(name, spec)
    steps = tf.nest.map_structure(tf.constant, random_timesteps(np.random.default_rng(2), spec, 1, 1))

    def logits(text: str, numbers: Any) -> Any:
        extras = {"vector": tf.constant([[numbers]]), "words": words(text)}
        return network(steps._replace(extras=extras), network.initial_state(1))[0].logits.numpy()

    one = logits("go left", [0.0, 1.0])
    assert np.abs(one - logits("go right", [0.0, 1.0])).max() > 1e-7
    assert np.abs(one - logits("go left", [1.0, 1.0])).max() > 1e-7
    np.testing.assert_array_equal(one, logits("Go left!", [0.0, 1.0]))
