"""The algorithms and networks by name, and everything the rest of the system must know about them.

A new algorithm is one file that implements `mlma.core.types.Agent`, and one entry in `ALGORITHMS`. A new network is one
function that builds it, and one entry in `NETWORKS`. Nothing else compares their names. Classes are given as
"module:name" and imported where they are used, so that this module does not import TensorFlow. Not here: those of the
user, which need no entry (mlma/core/own_code.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlma.core.presets.apex import APEX
from mlma.core.presets.common import Presets
from mlma.core.presets.impala import IMPALA
from mlma.core.presets.r2d2 import R2D2


@dataclass(frozen=True)
class Algorithm:
    """What the system must know about an algorithm besides its agent. The defaults fit an on-policy actor-critic."""

    agent: str  # "module:Class" of an mlma.core.types.Agent
    presets: Presets = IMPALA
    head: Literal["policy", "q_values"] = "policy"  # meaning of the network's logits
    uses_replay: bool = False  # learns from a prioritized replay instead of a queue
    learns_sequences: bool = False  # the replay holds sequences of burn_in + sequence_length steps
    has_epsilon_ladder: bool = False  # each environment has its own epsilon
    supports_deterministic: bool = True
    supports_popart: bool = False  # and other statistics: --normalize_returns, --normalize_observations
    supports_real_actions: bool = False  # actions that are vectors of real numbers
    supports_gradient_shards: bool = True  # computing a batch in shards is faster
    supports_life_loss: bool = True  # a return may end at the loss of a life


@dataclass(frozen=True)
class NetworkEntry:
    """What the system must know about a network."""

    build: str  # "module:function"
    observations: Literal["image", "vector", "any"]
    recurrent: bool | None = False  # None: not known before it is built
    deterministic_shards: bool = True  # shards that are computed in parallel give the same gradients each time


ALGORITHMS: dict[str, Algorithm] = {
    "impala": Algorithm("agents.impala:Impala", IMPALA, supports_popart=True, supports_real_actions=True),
    "apex": Algorithm(
        "agents.apex:Apex",
        APEX,
        head="q_values",
        uses_replay=True,
        has_epsilon_ladder=True,
        supports_deterministic=False,
        supports_gradient_shards=False,
    ),
    "r2d2": Algorithm(
        "agents.r2d2:R2D2",
        R2D2,
        head="q_values",
        uses_replay=True,
        learns_sequences=True,
        has_epsilon_ladder=True,
        supports_deterministic=False,
        supports_life_loss=False,
    ),
}
NETWORKS: dict[str, NetworkEntry] = {
    "ShallowConvNetAgent": NetworkEntry("agents.networks.zoo:shallow", "image"),
    "ShallowLSTMAgent": NetworkEntry("agents.networks.zoo:shallow_lstm", "image", recurrent=True),
    "SimpleConvNetAgent": NetworkEntry("agents.networks.zoo:simple", "image"),
    "ConvNetAgent": NetworkEntry("agents.networks.zoo:conv", "image"),
    "ConvLSTMAgent": NetworkEntry("agents.networks.zoo:conv_lstm", "image", recurrent=True),
    "ResNetAgent": NetworkEntry("agents.networks.zoo:resnet", "image", deterministic_shards=False),
    "ResNetLSTMAgent": NetworkEntry(
        "agents.networks.zoo:resnet_lstm", "image", recurrent=True, deterministic_shards=False
    ),
    "MLPAgent": NetworkEntry("agents.networks.zoo:mlp", "vector"),
    "SeparateMLPAgent": NetworkEntry("agents.networks.zoo:separate_mlp", "vector"),
    "MLPLSTMAgent": NetworkEntry("agents.networks.zoo:mlp_lstm", "vector", recurrent=True),
}


def networks_for(observations: str) -> list[str]:
    """The networks for "image" or "vector" observations."""
    return [name for name, entry in NETWORKS.items() if entry.observations == observations]
