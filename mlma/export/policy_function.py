"""A policy as one function of named tensors, with its state as inputs and outputs. What is exported is its graph.

Inputs that the network does not read are left out. Frames are stacked here, with operations that other runtimes have;
the network's own way packs bytes into integers (agents/networks/frame_stack.py) and gives the same stacks. Not here:
the formats (mlma/export/formats.py), which file says what the inputs mean (mlma/export/description.py).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tree

from mlma.core.actions import action_spec, split_policy
from mlma.core.flat_weights import dummy_timestep
from mlma.core.types import ActionNoise, Agent, ChoicePart, EnvSpec, NetworkState
from mlma.utils.tf_function import operations_read, tf_function

NEXT = "next_"  # prefix of an output that is an input of the next step
STACK = "stack"  # the input that replaces an observation and the frames before it


class PolicyFunction(tf.Module):
    """`act`: dict of tensors [B, ...] -> dict of tensors [B, ...]; `inputs` has the specs by name.

    `act_on_stacks` is the same for a network that stacks frames, with stacks [B, H, W, C * k] as its input; None for
    any other network.
    """

    def __init__(self, agent: Agent, spec: EnvSpec) -> None:
        """The network's variables must exist and have their values."""
        super().__init__(name="policy")
        self.weights = list(agent.network.variables)  # a SavedModel holds the variables that it finds here
        self._agent, self._spec = agent, spec
        state = agent.initial_state(1)
        self._frames = state.frames if isinstance(state, NetworkState) else None
        self._state = state._replace(frames=None) if self._frames is not None else state  # of the network alone
        self.state_names = _state_names(self._state)
        self.act, self.inputs = self._trace(stacks=False)
        self.act_on_stacks: Any = None
        if self._frames is not None:
            self.act_on_stacks, self.stack_inputs = self._trace(stacks=True)

    def _trace(self, stacks: bool) -> tuple[Any, dict[str, tf.TensorSpec]]:
        """The graph, and the specs of the inputs that it reads."""
        specs = self._all_inputs(stacks)
        read = operations_read(self._graph(specs, stacks).get_concrete_function().graph)
        names = {operation.name for operation in read}
        specs = {name: spec for name, spec in specs.items() if name in names}
        return self._graph(specs, stacks), specs

    def _graph(self, specs: dict[str, tf.TensorSpec], stacks: bool) -> Any:
        return tf_function(lambda inputs: self._act(inputs, stacks), [specs])

    def _all_inputs(self, stacks: bool) -> dict[str, tf.TensorSpec]:
        timestep = dummy_timestep(self._spec, 1)
        tensors = {"observation": timestep.observation, **timestep.extras}
        tensors |= {name: getattr(timestep, name) for name in ("reward", "last_action", "is_first")}
        if self._frames is not None and stacks:
            height, width, channels = self._spec.observation.shape
            depth = self._frames.shape[1] + 1
            tensors[STACK] = tf.zeros([1, height, width, channels * depth], tensors.pop("observation").dtype)
        elif self._frames is not None:
            tensors["frames"] = self._frames
        tensors |= zip(self.state_names, tree.flatten(_without_none(self._state)), strict=True)
        return {name: tf.TensorSpec([None, *x.shape[1:]], x.dtype, name) for name, x in tensors.items()}

    def _act(self, inputs: dict[str, tf.Tensor], stacks: bool) -> dict[str, tf.Tensor]:
        outputs = {}
        observation = inputs[STACK] if stacks else inputs["observation"]
        if self._frames is not None and not stacks:
            observation, outputs[NEXT + "frames"] = stack_one(observation, inputs["is_first"], inputs["frames"])
        batch = tf.shape(observation)[0]
        timestep = dummy_timestep(self._spec, 1).policy_inputs()
        timestep = timestep._replace(
            observation=observation,
            extras={name: inputs.get(name, value) for name, value in timestep.extras.items()},
            **{
                name: inputs[name] if name in inputs else _zeros_like(getattr(timestep, name), batch)
                for name in ("reward", "last_action", "is_first")
            },
        )
        state = _with_leaves(self._state, [inputs[name] for name in self.state_names])
        noise = ActionNoise(tf.zeros([batch, *action_spec(self._spec).shape]), tf.zeros([batch]))
        acted, state = self._agent.act(timestep, state, noise)
        outputs |= zip([NEXT + name for name in self.state_names], tree.flatten(_without_none(state)), strict=True)
        action = greedy_tensor(self._spec, acted.logits)
        # With an identity, each output has the name that its caller knows.
        outputs |= {"action": action, "logits": acted.logits, "value": acted.value}
        return {name: tf.identity(outputs[name], name) for name in sorted(outputs)}


def greedy_tensor(env: EnvSpec, outputs: tf.Tensor) -> tf.Tensor:
    """The same as mlma.core.actions.greedy_actions, in a graph."""
    if not env.action_parts:
        return tf.argmax(outputs, axis=-1, output_type=tf.int32)
    columns = [
        tf.cast(tf.argmax(parameters, axis=-1, output_type=tf.int32), tf.float32)[:, tf.newaxis]
        if isinstance(part, ChoicePart)
        else parameters[:, : len(part.bounded)]
        for part, parameters in zip(env.action_parts, split_policy(env, outputs), strict=True)
    ]
    return tf.concat(columns, axis=-1)


def _zeros_like(one: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    return tf.zeros([batch, *one.shape[1:]], one.dtype)


def stack_one(observation: tf.Tensor, is_first: tf.Tensor, before: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(the stack [B, H, W, C * k], the last k-1 frames) from a frame [B, H, W, C] and the k-1 frames before it."""
    # A product of integers, in two dimensions: LiteRT has no choice between bytes, nor one of five dimensions.
    depth, shape = before.shape[1], observation.shape[1:]
    keep = 1 - tf.cast(is_first, tf.int32)[:, tf.newaxis]
    flat = tf.reshape(tf.cast(before, tf.int32), [-1, depth * shape.num_elements()])
    kept = tf.cast(flat * keep, before.dtype)
    frames = [*tf.unstack(tf.reshape(kept, [-1, depth, *shape]), axis=1), observation]  # oldest first
    return tf.concat(frames, axis=-1), tf.stack(frames[1:], axis=1)


def _state_names(state: Any) -> list[str]:
    """A name for each array of an agent state without frames."""
    leaves = tree.flatten(_without_none(state))
    if isinstance(state, NetworkState) and len(leaves) == 2:  # of an LSTM
        return ["hidden", "cell"]
    return [f"state_{i}" for i in range(len(leaves))]


def _without_none(state: Any) -> Any:
    return [leaf for leaf in tree.flatten(state) if leaf is not None]


def _with_leaves(state: Any, leaves: list[tf.Tensor]) -> Any:
    """A state like this one, with other arrays."""
    rest = iter(leaves)
    return tree.map_structure(lambda leaf: None if leaf is None else next(rest), state)
