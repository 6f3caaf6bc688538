"""The network that every agent uses: frame stack -> torso -> optional extra inputs -> optional LSTM -> heads.

A network takes a `TimeStep` [T, B] and the agent state before it. It returns (logits [T, B, A], value [T, B]) and the
agent state after it. The state holds the last frames of the stack and the LSTM state; both reset where `is_first`. The
algorithm chooses the head: a policy and a value, or dueling q-values. Not here: torsos and the networks by name
(agents/networks/torsos.py, zoo.py), losses (agents/), action selection (agents/action_selection.py).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import sonnet as snt
import tensorflow as tf
import tree

from agents.networks.frame_stack import stack_frames
from agents.networks.heads import DuelingHead, RealPolicyHead
from agents.networks.initializers import ORTHOGONAL, Initializers
from agents.networks.normalization import Normalizer
from agents.networks.popart import PopArt
from agents.networks.recurrent import InstructionEncoder, ResetLSTM
from mlma.core.actions import part_width
from mlma.core.types import BoxPart, EnvSpec, NetworkState, TimeStep

MASKED_LOGIT = -1e9  # logit or q-value of an action that a level does not have
GREY_LEVELS = 64.0  # that become 1 where pixels are centred


def scale_pixels(observation: tf.Tensor, scaling: str) -> tf.Tensor:
    """uint8 [T, B, H, W, C] -> float32, by `--pixel_scaling`: "unit" is pixels / 255, as in the papers.

    Deviation: "centered", the default, subtracts the mean of each stack of frames, and GREY_LEVELS become 1, because
    the value loss on Pong then falls in a quarter of the frames: docs/decisions/0005-pong.md.
    """
    pixels = tf.cast(observation, tf.float32)
    if scaling == "unit":
        return pixels / 255.0
    return (pixels - tf.reduce_mean(pixels, axis=[2, 3, 4], keepdims=True)) / GREY_LEVELS


def network_inputs(
    timestep: TimeStep, frames: tf.Tensor | None, pixel_scaling: str, normalizer: Normalizer | None
) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """The observation float32 [T, B, ...], numbers next to an image if there are any, and the frames after the last
    step: images are stacked and scaled, numbers normalised."""
    observation = timestep.observation
    if frames is not None:  # else there is no stack, or the observations are stacks already
        observation, frames = stack_frames(observation, timestep.is_first, frames)
    if observation.dtype == tf.uint8:
        observation = scale_pixels(observation, pixel_scaling)  # [T, B, H, W, C]
    vector = timestep.extras.get("vector")  # next to an image
    if normalizer and vector is None:
        observation = normalizer(observation)
    elif normalizer:
        vector = normalizer(vector)
    return observation, vector, frames


def empty_frames(spec: EnvSpec, stack: int, batch_size: int) -> tf.Tensor | None:
    """The frames before an episode, uint8 [B, stack - 1, H, W, C]; None without a stack."""
    return tf.zeros([batch_size, stack - 1, *spec.observation.shape], tf.uint8) if stack > 1 else None


def allowed_actions(spec: EnvSpec) -> Any:
    """float32 [levels, A], 1 for the actions that a level has; None if there is a single level."""
    if not spec.actions_by_level:
        return None
    levels = [np.isin(np.arange(spec.num_actions), actions) for actions in spec.actions_by_level]
    return np.stack(levels).astype(np.float32)  # not a tensor, which a graph could not contain


class NetworkOutput(NamedTuple):
    """Outputs of all heads."""

    logits: tf.Tensor  # float32 [T, B, A], or q-values, or the parameters of a policy over real numbers
    value: tf.Tensor  # float32 [T, B]


class Network(snt.Module):
    """See the module docstring. Actions that a level does not have get MASKED_LOGIT."""

    def __init__(
        self,
        torso: snt.Module,
        spec: EnvSpec,
        stack: int,
        dueling: int = 0,  # width of the dueling streams; 0: a policy head and a value head
        lstm_size: int = 0,
        use_last_action_and_reward: bool = False,
        clip_last_reward: bool = True,  # to [-1, 1], before it is an input
        pixel_scaling: str = "centered",
        initializers: Initializers = ORTHOGONAL,
        popart: bool = False,
        num_shards: int = 1,
        acting_type: tf.DType = tf.float32,
        learning_type: tf.DType = tf.float32,
        normalize: bool = False,  # numbers in the observation, by their running mean and variance
        spread: str = "parameter",  # of real numbers in actions: RealPolicyHead
        initial_spread: float = 1.0,
        squash: bool = False,  # whether environments receive the tanh of bounded numbers
        value_torso: snt.Module | None = None,  # of the value; otherwise it shares the policy's
        name: str | None = None,
    ) -> None:
        """Unrolls over several steps (only learners do that) are computed in `num_shards` shards of the batch.

        For images, the torso and hidden layers of heads compute in `acting_type`, or in `learning_type` in unrolls over
        several steps; all else is computed in float32.
        """
        super().__init__(name=name)
        self._acting_type, self._learning_type = acting_type, learning_type
        self._pixel_scaling, self._clip_last_reward = pixel_scaling, clip_last_reward
        self._spec, self._stack, self._num_shards = spec, stack, num_shards
        self._use_last_action_and_reward = use_last_action_and_reward
        # Checkpoints hold the variables' names, which come from `name`, and their order, which Sonnet takes from the
        # names of the attributes. Both are those of version 0.1.
        self._torso, self._value_torso = torso, value_torso
        self._squash = squash
        self.normalizer: Normalizer | None = None
        if normalize and (size := count_numbers(spec)):
            self.normalizer = Normalizer(size, name="normalizer")
        self._numbers = (
            snt.Sequential([snt.Linear(64), tf.nn.relu], name="numbers") if "vector" in spec.extras else None
        )
        glorot = initializers.glorot_lstm
        self._words = InstructionEncoder(glorot, name="words") if "words" in spec.extras else None
        self._core = ResetLSTM(lstm_size, glorot, name="resetting_lstm") if lstm_size else None
        self._action_mask = allowed_actions(spec)
        self._dueling = DuelingHead(spec.num_actions, dueling, initializers, name="dueling") if dueling else None
        if not dueling:
            self._policy: snt.Module
            if spec.action_parts:
                self._policy = RealPolicyHead(spec.action_parts, spread, initial_spread, initializers, name="policy")
            else:
                self._policy = snt.Linear(spec.num_actions, w_init=initializers.policy, name="policy")
            self.value_head = PopArt(max(1, len(spec.actions_by_level)) if popart else 0, name="value")

    def initial_state(self, batch_size: int) -> NetworkState:
        """The agent state at the start of an episode: zeros [B, ...]."""
        frames = empty_frames(self._spec, self._stack, batch_size)
        return NetworkState(frames, self._core.initial_state(batch_size) if self._core else None)

    def __call__(self, timestep: TimeStep, state: NetworkState) -> tuple[NetworkOutput, NetworkState]:
        """(outputs [T, B], agent state after the last step) from time steps [T, B] and the agent state before them."""
        if self._num_shards <= 1 or timestep.is_first.shape[0] == 1:
            return self._unroll(timestep, state)
        timestep_shards = _split_batch(timestep.policy_inputs(), self._num_shards, axis=1)
        state_shards = _split_batch(state, self._num_shards, axis=0)
        shards = zip(timestep_shards, state_shards, strict=True)
        outputs, states = zip(*(self._unroll(*shard) for shard in shards), strict=True)
        return _join_batch(outputs, 1), _join_batch(states, 0)

    def _unroll(self, timestep: TimeStep, state: NetworkState) -> tuple[NetworkOutput, NetworkState]:
        dtype = tf.float32
        if timestep.observation.dtype == tf.uint8:
            dtype = self._acting_type if timestep.is_first.shape[0] == 1 else self._learning_type
        observation, vector, frames = network_inputs(timestep, state.frames, self._pixel_scaling, self.normalizer)
        observation = tf.cast(observation, dtype)
        features = tf.cast(snt.BatchApply(self._torso)(observation), tf.float32)  # [T, B, F]
        if self._numbers:
            features = tf.concat([features, snt.BatchApply(self._numbers)(vector)], axis=-1)
        if self._words:
            features = tf.concat([features, snt.BatchApply(self._words)(timestep.extras["words"])], axis=-1)
        if self._use_last_action_and_reward:
            reward = tf.clip_by_value(timestep.reward, -1, 1) if self._clip_last_reward else timestep.reward
            action = self._encode_action(timestep.last_action)
            features = tf.concat([features, reward[..., tf.newaxis], action], axis=-1)
        core = state.core
        if self._core:
            features, core = self._core(features, timestep.is_first, core)
        if self._dueling:
            head = functools.partial(self._dueling, hidden_type=dtype)
            logits, value = snt.BatchApply(head)(features)  # [T, B, A], [T, B]
        else:
            logits = snt.BatchApply(self._policy)(features)  # [T, B, A]
            if self._value_torso:
                features = tf.cast(snt.BatchApply(self._value_torso)(observation), tf.float32)
            value = self.value_head.values(features, timestep.extras.get("level"))  # [T, B]
        if self._action_mask is not None:
            logits = tf.where(tf.gather(self._action_mask, timestep.extras["level"]) > 0, logits, MASKED_LOGIT)
        return NetworkOutput(logits, value), NetworkState(frames, core)

    def _encode_action(self, action: tf.Tensor) -> tf.Tensor:
        """Actions [T, B, ...] as inputs [T, B, N]: choices one-hot, numbers as the environment received them."""
        if not self._spec.action_parts:
            return tf.one_hot(action, self._spec.num_actions)
        parts, inputs = self._spec.action_parts, []
        for part, numbers in zip(parts, tf.split(action, [part_width(part) for part in parts], axis=-1), strict=True):
            if isinstance(part, BoxPart):
                within = tf.tanh(numbers) if self._squash else tf.clip_by_value(numbers, -1.0, 1.0)
                inputs.append(tf.where(tf.constant(part.bounded), within, numbers))
            else:
                inputs.append(tf.one_hot(tf.cast(numbers[..., 0], tf.int32), part.alternatives))
        return tf.concat(inputs, axis=-1)


def count_numbers(spec: EnvSpec) -> int:
    """The numbers of an observation: all of a vector, or those next to an image."""
    if spec.observation.dtype != "uint8":
        return int(spec.observation.shape[0])
    return int(spec.extras["vector"].shape[0]) if "vector" in spec.extras else 0


def numbers_of(timestep: TimeStep) -> tf.Tensor:
    """The numbers [..., D] of observations that have any."""
    return timestep.extras.get("vector", timestep.observation)


def _split_batch(nest: Any, num_shards: int, axis: int) -> list[Any]:
    """`num_shards` nests of equal size, split along the batch axis."""
    split = tree.map_structure(lambda x: [None] * num_shards if x is None else tf.split(x, num_shards, axis), nest)
    return [tree.map_structure_up_to(nest, lambda shards, i=i: shards[i], split) for i in range(num_shards)]


def _join_batch(nests: Any, axis: int) -> Any:
    return tree.map_structure(lambda *shards: None if shards[0] is None else tf.concat(shards, axis), *nests)
