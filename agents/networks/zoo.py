"""The networks of `--agent_name`, as in Espeholt et al. 2018, figure 3; Mnih et al. 2015; Kapturowski et al. 2019.

Each function builds a `Network` for a level; `options` holds the arguments that the algorithm and the flags choose. A
new network is a function here, or in a file of its own, and an entry in mlma/core/catalog.py. Not here: those of the
user, by the name of their module (agents/networks/own_network.py).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from agents.networks.initializers import choose_initializers
from agents.networks.network import Network
from agents.networks.own_network import WholeNetwork, build_own_network
from agents.networks.torsos import NATURE_CONVOLUTIONS, SHALLOW_CONVOLUTIONS, ResidualTorso, conv_torso, mlp_torso
from mlma.core.catalog import NETWORKS
from mlma.core.config import Config
from mlma.core.config.flags import is_own_name
from mlma.core.types import EnvSpec
from mlma.utils.import_object import import_object


def shallow(spec: EnvSpec, stack: int, **options: Any) -> Network:
    """IMPALA's shallow network without its LSTM, for Atari: the feed-forward network of Mnih et al. 2016 (A3C).

    Espeholt et al. (section 5.3.2) call it that, but with three convolutions; Mnih et al. have these two.
    """
    torso = conv_torso(SHALLOW_CONVOLUTIONS, 256, "torso", options["initializers"])
    return Network(torso, spec, stack, **options, name="shallow")


def shallow_lstm(spec: EnvSpec, stack: int, **options: Any) -> Network:
    """IMPALA's shallow network, for DeepMind Lab: with last reward and action, instruction and LSTM of figure 3."""
    torso = conv_torso(SHALLOW_CONVOLUTIONS, 256, "torso", options["initializers"])
    return Network(torso, spec, stack, **options, lstm_size=256, use_last_action_and_reward=True, name="shallow_lstm")


def resnet(spec: EnvSpec, stack: int, **options: Any) -> Network:
    """IMPALA's deep network without its LSTM, for Atari (Espeholt et al. 2018, section 5.3.2 and appendix G).

    The paper calls it feed-forward and names four stacked frames as its input. Last reward and action go into the LSTM
    in figure 3, so they are left out with it; the paper does not mention them, and its code is for DeepMind Lab only.
    """
    return Network(ResidualTorso("torso"), spec, stack, **options, name="resnet")


def resnet_lstm(spec: EnvSpec, stack: int, **options: Any) -> Network:
    """IMPALA's deep network, for DeepMind Lab, with the instruction encoder for levels with text."""
    return Network(
        ResidualTorso("torso"),
        spec,
        stack,
        **options,
        lstm_size=256,
        use_last_action_and_reward=True,
        name="resnet_lstm",
    )


def simple(spec: EnvSpec, stack: int, **options: Any) -> Network:
    """The network of Mnih et al. 2015 ("Nature"), with last reward and action as inputs."""
    torso = conv_torso(NATURE_CONVOLUTIONS, 512, "torso", options["initializers"])
    return Network(torso, spec, stack, **options, use_last_action_and_reward=True, name="simple")


def conv(spec: EnvSpec, stack: int, **options: Any) -> Network:
    """Ape-X's network: only the Nature convolutions, since dueling heads have their own hidden layer."""
    torso = conv_torso(NATURE_CONVOLUTIONS, 0, "torso", options["initializers"])
    return Network(torso, spec, stack, **options, name="conv")


def conv_lstm(spec: EnvSpec, stack: int, **options: Any) -> Network:
    """R2D2's network: the Nature torso, last reward and action as inputs, an LSTM of 512."""
    torso = conv_torso(NATURE_CONVOLUTIONS, 512, "torso", options["initializers"])
    return Network(torso, spec, stack, **options, lstm_size=512, use_last_action_and_reward=True, name="conv_lstm")


def mlp(spec: EnvSpec, stack: int, **options: Any) -> Network:
    """Two layers of 64, for vector observations."""
    return Network(mlp_torso(), spec, stack=1, **options, name="mlp")


def mlp_lstm(spec: EnvSpec, stack: int, **options: Any) -> Network:
    """Two layers of 64 and an LSTM of 64, for vector observations that do not show the full state."""
    return Network(
        mlp_torso(), spec, stack=1, **options, lstm_size=64, use_last_action_and_reward=True, name="mlp_lstm"
    )


def separate_mlp(spec: EnvSpec, stack: int, **options: Any) -> Network:
    """Two layers of 64 for the policy and two for the value, for vector observations; a q-network has the first two."""
    value_torso = None if options["dueling"] else mlp_torso("value_torso")
    return Network(mlp_torso(), spec, stack=1, **options, value_torso=value_torso, name="separate_mlp")


def make_network(
    config: Config, spec: EnvSpec, dueling: bool = False, clip_last_reward: bool = True
) -> Network | WholeNetwork:
    """The network of `--agent_name`, with a policy and a value head, or with a dueling head."""
    learner, width = config.learner, 512 if len(spec.observation.shape) == 3 else 64
    options: dict[str, Any] = dict(
        dueling=width if dueling else 0,
        clip_last_reward=clip_last_reward,
        pixel_scaling=learner.pixel_scaling,
        initializers=choose_initializers(learner.initializers, q_values=dueling),
        popart=learner.popart or learner.normalize_returns == "on",
        num_shards=learner.gradient_shards,
        acting_type=_float_type(config.actor.acting_precision),
        learning_type=_float_type(learner.precision),
        normalize=learner.normalize_observations == "on",
        spread=learner.action_spread,
        initial_spread=learner.initial_spread,
        squash=config.environment.action_bounds == "tanh",
    )
    if is_own_name(config.run.agent_name):
        return build_own_network(config, spec, options)
    network: Network = import_object(NETWORKS[config.run.agent_name].build)(spec, learner.num_stacked_frames, **options)
    return network


def _float_type(precision: str) -> tf.DType:
    """The type of `--precision`. "auto" is decided by the roles that train and act; elsewhere it is float32."""
    return tf.bfloat16 if precision == "bfloat16" else tf.float32
