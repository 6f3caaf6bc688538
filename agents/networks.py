"""The zoo: every network, as a Sonnet module that unrolls over time. Espeholt et al. 2018, figure 3; Mnih et al. 2015.

A network takes a `TimeStep` [T, B] and the agent state before it, and returns (logits [T, B, A], value [T, B]) and the state
after it. The state holds the last frames of the stack and that of the LSTM, so that single frames travel and are remembered;
both start afresh where `first`. The algorithm chooses the head: a policy and a value, or dueling q-values. Not here: losses,
and how actions are chosen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sonnet as snt
import tensorflow as tf
import tree

from agents.popart import PopArt
from mlma.envs.spaces import BUCKETS
from mlma.types import EnvSpec, NetworkState, TimeStep

MISSING = -1e9  # the logit, or the q-value, of an action that a level does not have
CONTRAST = 64.0  # grey levels from the mean of an image that become 1


class NetworkOutput(NamedTuple):
    logits: tf.Tensor  # float32 [T, B, A], or q-values
    value: tf.Tensor  # float32 [T, B]


class Network(snt.Module):
    """Stack frames -> torso -> optional numbers, words, reward, action -> optional LSTM -> policy and value, or dueling
    q-values. Actions that a level does not have are masked."""

    def __init__(
        self,
        torso: snt.Module,
        spec: EnvSpec,
        stack: int,
        dueling: int = 0,  # width of the dueling streams; 0 is a policy and a value
        lstm_size: int = 0,
        feed_back: bool = False,
        popart: bool = False,
        parts: int = 1,
        name: str | None = None,
    ) -> None:
        """Unrolls, which only learners do, are computed in `parts` that do not wait for each other."""
        super().__init__(name=name)
        self._spec, self._stack, self._feed_back, self._parts = spec, stack, feed_back, parts
        self._torso = torso
        self._numbers = snt.Sequential([snt.Linear(64), tf.nn.relu], name="numbers") if "vector" in spec.more else None
        self._words = Instruction(name="words") if "words" in spec.more else None
        self._core = ResettingLSTM(lstm_size) if lstm_size else None
        self._has = None  # float32 [levels, A]
        if spec.actions_of:
            self._has = tf.stack([tf.reduce_max(tf.one_hot(own, spec.num_actions), axis=0) for own in spec.actions_of])
        self._dueling = Dueling(spec.num_actions, dueling) if dueling else None
        if not dueling:
            self._policy = snt.Linear(spec.num_actions, w_init=snt.initializers.TruncatedNormal(stddev=0.01), name="policy")
            self.value_head = PopArt(max(1, len(spec.actions_of)) if popart else 0, name="value")

    def initial_state(self, batch_size: int) -> NetworkState:
        frames = None
        if self._stack > 1:
            frames = tf.zeros([batch_size, self._stack - 1, *self._spec.observation.shape], tf.uint8)
        return NetworkState(frames, self._core.initial_state(batch_size) if self._core else None)

    def __call__(self, timestep: TimeStep, state: NetworkState) -> tuple[NetworkOutput, NetworkState]:
        if self._parts <= 1 or timestep.first.shape[0] == 1:
            return self._unroll(timestep, state)
        pieces = zip(_cut(timestep.seen(), self._parts, 1), _cut(state, self._parts, 0), strict=True)
        outputs, states = zip(*(self._unroll(*piece) for piece in pieces), strict=True)
        return _joined(outputs, 1), _joined(states, 0)

    def _unroll(self, timestep: TimeStep, state: NetworkState) -> tuple[NetworkOutput, NetworkState]:
        observation, frames = timestep.observation, state.frames
        if frames is not None:  # else there is no stack, or it is made already
            observation, frames = stack_frames(observation, timestep.first, frames)
        if observation.dtype == tf.uint8:
            observation = tf.cast(observation, tf.float32)  # [T, B, H, W, C]
            observation = (observation - tf.reduce_mean(observation, axis=[2, 3, 4], keepdims=True)) / CONTRAST
        features = snt.BatchApply(self._torso)(observation)  # [T, B, F]
        if self._numbers:
            features = tf.concat([features, snt.BatchApply(self._numbers)(timestep.more["vector"])], axis=-1)
        if self._words:
            features = tf.concat([features, snt.BatchApply(self._words)(timestep.more["words"])], axis=-1)
        if self._feed_back:
            reward = tf.clip_by_value(timestep.reward, -1, 1)[..., tf.newaxis]
            action = tf.one_hot(timestep.last_action, self._spec.num_actions)
            features = tf.concat([features, reward, action], axis=-1)
        core = state.core
        if self._core:
            features, core = self._core(features, timestep.first, core)
        if self._dueling:
            logits, value = snt.BatchApply(self._dueling)(features)  # [T, B, A], [T, B]
        else:
            logits = snt.BatchApply(self._policy)(features)  # [T, B, A]
            value = self.value_head.values(features, timestep.more.get("level"))  # [T, B]
        if self._has is not None:
            logits = tf.where(tf.gather(self._has, timestep.more["level"]) > 0, logits, MISSING)
        return NetworkOutput(logits, value), NetworkState(frames, core)


def _cut(nest: Any, parts: int, axis: int) -> list[Any]:
    """Into as many nests, along the batch."""
    split = tree.map_structure(lambda x: [None] * parts if x is None else tf.split(x, parts, axis), nest)
    return [tree.map_structure_up_to(nest, lambda pieces, i=i: pieces[i], split) for i in range(parts)]


def _joined(nests: Any, axis: int) -> Any:
    return tree.map_structure(lambda *pieces: None if pieces[0] is None else tf.concat(pieces, axis), *nests)


class Instruction(snt.Module):
    """Words as numbers: an embedding of 20, an LSTM of 64, what it says after the last word. Espeholt et al. 2018, figure 3."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name)
        self._embedding = snt.Embed(BUCKETS + 1, 20)
        self._lstm = snt.LSTM(64)

    def __call__(self, words: tf.Tensor) -> tf.Tensor:
        """int32 [N, W] -> [N, 64]; zeros without words."""
        embedded = self._embedding(words)  # [N, W, 20]
        state = self._lstm.initial_state(tf.shape(words)[0])
        for word, vector in zip(tf.unstack(words, axis=1), tf.unstack(embedded, axis=1), strict=True):
            _, new = self._lstm(vector, state)
            there = (word > 0)[:, tf.newaxis]
            state = tf.nest.map_structure(lambda one, other, there=there: tf.where(there, one, other), new, state)
        return state.hidden


class Dueling(snt.Module):
    """Q-values from a stream for the state and one for the actions: Wang et al. 2016 (arXiv 1511.06581)."""

    def __init__(self, num_actions: int, width: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self._state = snt.Sequential([snt.Linear(width, w_init=_init()), tf.nn.relu, snt.Linear(1)], name="state")
        self._actions = snt.Sequential([snt.Linear(width, w_init=_init()), tf.nn.relu, snt.Linear(num_actions)], name="actions")

    def __call__(self, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        value, advantages = self._state(features), self._actions(features)  # [N, 1], [N, A]
        q = value + advantages - tf.reduce_mean(advantages, axis=-1, keepdims=True)  # eq. (9)
        return q, tf.squeeze(value, axis=-1)  # [N, A], [N]


def stack_frames(observation: tf.Tensor, first: tf.Tensor, before: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Stacks of k frames, oldest channel first, with zeros for what was before the start of the game.

    observation uint8 [T, B, H, W, C], first bool [T, B], before uint8 [B, k-1, H, W, C] -> [T, B, H, W, C * k] and the new
    `before`.
    """
    steps, depth = observation.shape[0], before.shape[1]
    earlier = tf.stack(tf.unstack(before, axis=1))  # [k-1, B, H, W, C]; not transpose, which has no fast kernel for bytes
    frames = tf.concat([earlier, observation], axis=0)  # [k-1+T, B, H, W, C]
    # What is j frames old at step t is of the same game if none of the steps t-j+1 .. t is a first one. Before step 0 that
    # was settled when `before` was made.
    keep = tf.cast(tf.logical_not(first), tf.uint8)[..., tf.newaxis, tf.newaxis, tf.newaxis]  # [T, B, 1, 1, 1]
    same_game = [tf.ones_like(keep)]  # by age
    for _ in range(depth):
        same_game.append(keep * tf.concat([tf.ones_like(keep[:1]), same_game[-1][:-1]], axis=0))
    after = tf.stack([frames[-1 - age] * same_game[age][-1] for age in range(depth - 1, -1, -1)], axis=1)  # [B, k-1, H, W, C]

    if observation.shape[-1] == 1 and depth in PACKED:
        return _pack(frames[..., 0], [same[..., 0] for same in same_game], steps, PACKED[depth]), after
    planes = [frames[depth - age : depth - age + steps] * same_game[age] for age in range(depth, -1, -1)]
    return tf.concat(planes, axis=-1), after  # [T, B, H, W, C * k]


PACKED = {1: tf.uint16, 3: tf.uint32}  # the integer that holds k bytes, by k - 1


def _pack(frames: tf.Tensor, same_game: list[tf.Tensor], steps: int, integer: tf.DType) -> tf.Tensor:
    """The stack as the bytes of one integer per pixel, lowest first: arithmetic that runs in whole vectors.

    Joining the frames byte by byte takes six times as long, as long as the convolutions: docs/performance.md.
    """
    depth = len(same_game) - 1
    wide = tf.cast(frames, integer)  # [k-1+T, B, H, W]
    pixels = [
        wide[depth - age : depth - age + steps] * (tf.cast(same_game[age], integer) * 256 ** (depth - age))
        for age in range(depth + 1)
    ]
    return tf.bitcast(tf.add_n(pixels), tf.uint8)  # [T, B, H, W, k]


class ResettingLSTM(snt.Module):
    """LSTM over time whose state starts at zero where `first`. The input's share of all gates is one product for all steps."""

    def __init__(self, size: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self._size = size
        self._from_input = snt.Linear(4 * size, name="from_input")
        self._from_hidden = snt.Linear(4 * size, with_bias=False, name="from_hidden")

    def initial_state(self, batch_size: int) -> tuple[tf.Tensor, tf.Tensor]:
        zeros = tf.zeros([batch_size, self._size])
        return zeros, zeros

    def __call__(self, inputs: tf.Tensor, first: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        hidden, cell = state  # [B, N]
        keep = 1 - tf.cast(first, tf.float32)[..., tf.newaxis]  # [T, B, 1]
        projected = snt.BatchApply(self._from_input)(inputs)  # [T, B, 4N]
        outputs = []
        for x_t, keep_t in zip(tf.unstack(projected), tf.unstack(keep), strict=True):
            hidden, cell = hidden * keep_t, cell * keep_t
            i, f, o, g = tf.split(x_t + self._from_hidden(hidden), 4, axis=-1)
            # Forget bias 1 (Jozefowicz et al. 2015): an untrained LSTM remembers.
            cell = tf.sigmoid(f + 1) * cell + tf.sigmoid(i) * tf.tanh(g)
            hidden = tf.sigmoid(o) * tf.tanh(cell)
            outputs.append(hidden)
        return tf.stack(outputs), (hidden, cell)  # [T, B, N]


def _init() -> snt.initializers.Initializer:
    """Orthogonal with the gain of ReLU (Saxe et al. 2014): signals keep their size through the layers."""
    return snt.initializers.Orthogonal(2**0.5)


def _conv_torso(convolutions: list[tuple[int, int, int]], hidden: int, name: str) -> snt.Module:
    """(channels, kernel, stride) each, VALID padding, then one fully connected layer if `hidden`; ReLU everywhere."""
    layers: list[Any] = []
    for channels, kernel, stride in convolutions:
        layers += [snt.Conv2D(channels, kernel, stride, padding="VALID", w_init=_init()), tf.nn.relu]
    layers.append(snt.Flatten())
    if hidden:
        layers += [snt.Linear(hidden, w_init=_init()), tf.nn.relu]
    return snt.Sequential(layers, name=name)


NATURE = [(32, 8, 4), (64, 4, 2), (64, 3, 1)]


class ResidualTorso(snt.Module):
    """The deep network's: three sections of [conv, max-pool, two residual blocks], then a layer of 256."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name)
        self._sections = [(snt.Conv2D(channels, 3), [self._block(channels) for _ in range(2)]) for channels in (16, 32, 32)]
        self._out = snt.Sequential([tf.nn.relu, snt.Flatten(), snt.Linear(256), tf.nn.relu])

    @staticmethod
    def _block(channels: int) -> tuple[snt.Module, ...]:
        return snt.Conv2D(channels, 3), snt.Conv2D(channels, 3, with_bias=False), snt.Bias(bias_dims=[-1])

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        for entry, blocks in self._sections:
            x = tf.nn.max_pool2d(entry(x), 3, 2, "SAME")
            for conv_1, conv_2, bias in blocks:
                # The bias comes last, since TensorFlow 2.21 complains about each graph with convolution, bias, sum and ReLU.
                x = bias(x + conv_2(tf.nn.relu(conv_1(tf.nn.relu(x)))))
        return self._out(x)


def _mlp_torso() -> snt.Module:
    return snt.Sequential([snt.Flatten(), snt.Linear(64), tf.tanh, snt.Linear(64), tf.tanh], name="torso")


def shallow(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """The paper's shallow network without its LSTM, as it plays Atari (also Mnih et al. 2013)."""
    return Network(_conv_torso([(16, 8, 4), (32, 4, 2)], 256, "torso"), spec, stack, **head, name="shallow")


def simple(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """The network of Mnih et al. 2015, "Nature", plus last reward and action."""
    return Network(_conv_torso(NATURE, 512, "torso"), spec, stack, **head, feed_back=True, name="simple")


def conv(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """Nature's convolutions alone, for heads that bring a layer of their own: Ape-X's network."""
    return Network(_conv_torso(NATURE, 0, "torso"), spec, stack, **head, name="conv")


def conv_lstm(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """R2D2's: Nature's torso, last reward and action, an LSTM of 512."""
    return Network(_conv_torso(NATURE, 512, "torso"), spec, stack, **head, lstm_size=512, feed_back=True, name="conv_lstm")


def resnet_lstm(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """IMPALA's deep network; with the language input where the level has words."""
    return Network(ResidualTorso("torso"), spec, stack, **head, lstm_size=256, feed_back=True, name="resnet_lstm")


def mlp(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """For vector observations."""
    return Network(_mlp_torso(), spec, stack=1, **head, name="mlp")


def mlp_lstm(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """For vector observations that do not tell everything."""
    return Network(_mlp_torso(), spec, stack=1, **head, lstm_size=64, feed_back=True, name="mlp_lstm")


NETWORKS = {
    "ShallowConvNetAgent": shallow,
    "SimpleConvNetAgent": simple,
    "ConvNetAgent": conv,
    "ConvLSTMAgent": conv_lstm,
    "ResNetLSTMAgent": resnet_lstm,
    "MLPAgent": mlp,
    "MLPLSTMAgent": mlp_lstm,
}


def make(agent_name: str, spec: EnvSpec, stack: int, dueling: bool = False, popart: bool = False, parts: int = 1) -> Network:
    """With a policy and a value on top, or with dueling q-values."""
    width = 512 if len(spec.observation.shape) == 3 else 64
    return NETWORKS[agent_name](spec, stack, dueling=width if dueling else 0, popart=popart, parts=parts)
