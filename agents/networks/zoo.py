"""The networks of `--agent_name`, as in Espeholt et al. 2018, figure 3; Mnih et al. 2015; Kapturowski et al. 2019.

Each function builds a `Network` for a level; `head` holds the arguments that the algorithm chooses. A new network is a
function here, or in a file of its own, and an entry in mlma/core/catalog.py.
"""

from __future__ import annotations

from typing import Any

from agents.networks.network import Network
from agents.networks.torsos import NATURE_CONVOLUTIONS, ResidualTorso, conv_torso, mlp_torso
from mlma.core.catalog import NETWORKS
from mlma.core.types import EnvSpec
from mlma.utils.import_object import import_object


def shallow(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """IMPALA's shallow network without its LSTM, as used for Atari (also Mnih et al. 2013)."""
    return Network(conv_torso([(16, 8, 4), (32, 4, 2)], 256, "torso"), spec, stack, **head, name="shallow")


def simple(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """The network of Mnih et al. 2015 ("Nature"), with last reward and action as inputs."""
    return Network(
        conv_torso(NATURE_CONVOLUTIONS, 512, "torso"),
        spec,
        stack,
        **head,
        use_last_action_and_reward=True,
        name="simple",
    )


def conv(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """Ape-X's network: only the Nature convolutions, since dueling heads have their own hidden layer."""
    return Network(conv_torso(NATURE_CONVOLUTIONS, 0, "torso"), spec, stack, **head, name="conv")


def conv_lstm(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """R2D2's network: the Nature torso, last reward and action as inputs, an LSTM of 512."""
    return Network(
        conv_torso(NATURE_CONVOLUTIONS, 512, "torso"),
        spec,
        stack,
        **head,
        lstm_size=512,
        use_last_action_and_reward=True,
        name="conv_lstm",
    )


def resnet_lstm(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """IMPALA's deep network, with the instruction encoder for levels with text."""
    return Network(
        ResidualTorso("torso"), spec, stack, **head, lstm_size=256, use_last_action_and_reward=True, name="resnet_lstm"
    )


def mlp(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """Two layers of 64, for vector observations."""
    return Network(mlp_torso(), spec, stack=1, **head, name="mlp")


def mlp_lstm(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """Two layers of 64 and an LSTM of 64, for vector observations that do not show the full state."""
    return Network(mlp_torso(), spec, stack=1, **head, lstm_size=64, use_last_action_and_reward=True, name="mlp_lstm")


def make_network(
    agent_name: str, spec: EnvSpec, stack: int, dueling: bool = False, popart: bool = False, num_shards: int = 1
) -> Network:
    """The network `agent_name`, with a policy and a value head, or with a dueling head."""
    width = 512 if len(spec.observation.shape) == 3 else 64
    build = import_object(NETWORKS[agent_name].build)
    network: Network = build(spec, stack, dueling=width if dueling else 0, popart=popart, num_shards=num_shards)
    return network
