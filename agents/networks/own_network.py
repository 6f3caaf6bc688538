"""Networks of the user's: `--agent_name=module:NAME`.

Such a class or function returns the `Network` of this package with a torso of its own, or a Sonnet module that is the
whole network, which `WholeNetwork` brings into the form that algorithms use. Not here: networks of the catalog
(agents/networks/zoo.py).
"""

from __future__ import annotations

from typing import Any

import sonnet as snt
import tensorflow as tf
import tree

from agents.networks.network import (
    MASKED_LOGIT,
    Network,
    NetworkOutput,
    allowed_actions,
    count_numbers,
    empty_frames,
    network_inputs,
)
from agents.networks.normalization import Normalizer
from agents.networks.popart import PopArt
from agents.own_code import import_own, takes
from mlma.core.actions import policy_size
from mlma.core.config import Config
from mlma.core.config.limits import MAX_RECURRENT_STEPS
from mlma.core.flat_weights import dummy_timestep
from mlma.core.own_code import find_algorithm, find_network
from mlma.core.types import EnvSpec, NetworkState, TimeStep
from mlma.utils.import_object import in_one_line

LIBRARIES = "site-packages"  # where Sonnet and TensorFlow are, whose own lines say little
STEPS, SHARD = 2, 3  # of the call that shows whether a network's outputs have the right shapes


class WholeNetwork(snt.Module):
    """A module of the user's as a network: stacks and scales its observations, normalises numbers, masks actions.

    The module maps a `TimeStep` [T, B], with observations float32, to (logits [T, B, A], value [T, B]). If it has
    `initial_state(batch_size)`, it also takes the state before the first step, and returns (outputs, state after).
    """

    def __init__(self, module: Any, spec: EnvSpec, stack: int, pixel_scaling: str, normalize: bool) -> None:
        super().__init__(name="own")
        self._module, self._spec, self._stack, self._pixel_scaling = module, spec, stack, pixel_scaling
        self._has_state = hasattr(module, "initial_state")
        self.normalizer: Normalizer | None = None
        if normalize and (size := count_numbers(spec)):
            self.normalizer = Normalizer(size, name="normalizer")
        self.value_head = getattr(module, "value_head", None) or PopArt(0, name="value")
        self._action_mask = allowed_actions(spec)

    def initial_state(self, batch_size: int) -> NetworkState:
        """The agent state at the start of an episode: [B, ...]."""
        core = self._module.initial_state(batch_size) if self._has_state else None
        return NetworkState(empty_frames(self._spec, self._stack, batch_size), core)

    def __call__(self, timestep: TimeStep, state: NetworkState) -> tuple[NetworkOutput, NetworkState]:
        """(outputs [T, B], agent state after the last step) from time steps [T, B] and the agent state before them."""
        inputs = network_inputs(timestep, state.frames, self._pixel_scaling, self.normalizer)
        observation, vector, frames = inputs
        extras = timestep.extras if vector is None else timestep.extras | {"vector": vector}
        timestep = timestep._replace(observation=observation, extras=extras)
        core = state.core
        if self._has_state:
            (logits, value), core = self._module(timestep, core)
        else:
            logits, value = self._module(timestep)
        if self._action_mask is not None:
            logits = tf.where(tf.gather(self._action_mask, timestep.extras["level"]) > 0, logits, MASKED_LOGIT)
        return NetworkOutput(logits, value), NetworkState(frames, core)


def build_own_network(config: Config, spec: EnvSpec, options: dict[str, Any]) -> Network | WholeNetwork:
    """The network of an `--agent_name` of the user's; ValueError, in one line, if it cannot be used."""
    flag = f"--agent_name={config.run.agent_name}"
    build = import_own("--agent_name", config.run.agent_name)
    stack = config.learner.num_stacked_frames if len(spec.observation.shape) == 3 else 1
    try:
        built = build(**takes(build, {"spec": spec, "stack": stack, **options}))
    except (TypeError, AttributeError, NameError) as error:
        raise ValueError(f"{flag}: cannot be built: {in_one_line(error, LIBRARIES)}") from error
    if isinstance(built, Network):
        network: Network | WholeNetwork = built
    elif isinstance(built, snt.Module) and callable(built):
        if options["popart"] and not options["dueling"] and not hasattr(built, "value_head"):
            raise ValueError(
                f"{flag}: has no value_head, an agents.networks.popart.PopArt, which --normalize_returns=on needs; "
                "allowed: --normalize_returns=off without --popart"
            )
        network = WholeNetwork(built, spec, stack, options["pixel_scaling"], options["normalize"])
    else:
        raise ValueError(f"{flag}: makes a {type(built).__name__}, which is no Sonnet module that can be called")
    _check_outputs(flag, network, spec, SHARD * max(1, options["num_shards"]))
    _check_state(flag, network, config)
    return network


def _check_outputs(flag: str, network: Network | WholeNetwork, spec: EnvSpec, batch: int) -> None:
    """ValueError for outputs of another shape or type. This call also creates the variables."""
    try:
        output, state = network(dummy_timestep(spec, STEPS, batch), network.initial_state(batch))
    except (TypeError, ValueError, AttributeError, NameError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(f"{flag}: cannot be called: {in_one_line(error, LIBRARIES)}") from error
    expected = {"logits": (STEPS, batch, policy_size(spec)), "value": (STEPS, batch)}
    for name, shape in expected.items():
        tensor = tf.convert_to_tensor(getattr(output, name))
        if tuple(tensor.shape) != shape or tensor.dtype != tf.float32:
            raise ValueError(
                f"{flag}: its {name} are {tensor.dtype.name} {list(tensor.shape)} for [T={STEPS}, B={batch}]; "
                f"must be float32 {list(shape)}"
            )
    before, after = _shapes(network.initial_state(batch)), _shapes(state)
    if before != after:
        raise ValueError(f"{flag}: its state has the shapes {after} after a call; must be {before} as before")


def _shapes(state: NetworkState) -> list[tuple[int, ...]]:
    return [tuple(array.shape) for array in tree.flatten(state) if array is not None]


def _check_state(flag: str, network: Network | WholeNetwork, config: Config) -> None:
    """ValueError for a recurrent state that is denied, or too long an unroll for one that was not declared."""
    has_state = any(array is not None for array in tree.flatten(network.initial_state(1).core))
    declared, length = find_network(config.run.agent_name).recurrent, config.learner.unroll_length
    if declared is not None and declared != has_state:
        raise ValueError(f"{flag}: says recurrent = {declared}, but its initial_state says {has_state}")
    sequences = find_algorithm(config.run.algorithm).learns_sequences
    if has_state and not sequences and length > MAX_RECURRENT_STEPS:
        raise ValueError(f"--unroll_length={length}: must be at most {MAX_RECURRENT_STEPS} with {flag}")
