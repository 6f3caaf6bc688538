"""The zoo: every network, as a Sonnet module that unrolls over time. Espeholt et al. 2018, figure 3; Mnih et al. 2015.

A network takes a `TimeStep` [T, B] and the agent state before it, and returns (logits [T, B, A], value [T, B]) and the state
after it. The state holds the last frames of the stack and that of the LSTM, so that single frames travel and are remembered;
both start afresh where `first`. The algorithm chooses the head: a policy and a value, or dueling q-values. Not here: losses,
and how actions are chosen.
"""

from __future__ import annotations

from typing import Any

from agents.networks.network import Network
from agents.networks.torsos import NATURE_CONVOLUTIONS, ResidualTorso, conv_torso, mlp_torso
from mlma.core.types import EnvSpec


def shallow(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """The paper's shallow network without its LSTM, as it plays Atari (also Mnih et al. 2013)."""
    return Network(conv_torso([(16, 8, 4), (32, 4, 2)], 256, "torso"), spec, stack, **head, name="shallow")


def simple(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """The network of Mnih et al. 2015, "Nature", plus last reward and action."""
    return Network(conv_torso(NATURE_CONVOLUTIONS, 512, "torso"), spec, stack, **head, feed_back=True, name="simple")


def conv(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """Nature's convolutions alone, for heads that bring a layer of their own: Ape-X's network."""
    return Network(conv_torso(NATURE_CONVOLUTIONS, 0, "torso"), spec, stack, **head, name="conv")


def conv_lstm(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """R2D2's: Nature's torso, last reward and action, an LSTM of 512."""
    return Network(
        conv_torso(NATURE_CONVOLUTIONS, 512, "torso"), spec, stack, **head, lstm_size=512, feed_back=True, name="conv_lstm"
    )


def resnet_lstm(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """IMPALA's deep network; with the language input where the level has words."""
    return Network(ResidualTorso("torso"), spec, stack, **head, lstm_size=256, feed_back=True, name="resnet_lstm")


def mlp(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """For vector observations."""
    return Network(mlp_torso(), spec, stack=1, **head, name="mlp")


def mlp_lstm(spec: EnvSpec, stack: int, **head: Any) -> Network:
    """For vector observations that do not tell everything."""
    return Network(mlp_torso(), spec, stack=1, **head, lstm_size=64, feed_back=True, name="mlp_lstm")


NETWORKS = {
    "ShallowConvNetAgent": shallow,
    "SimpleConvNetAgent": simple,
    "ConvNetAgent": conv,
    "ConvLSTMAgent": conv_lstm,
    "ResNetLSTMAgent": resnet_lstm,
    "MLPAgent": mlp,
    "MLPLSTMAgent": mlp_lstm,
}


def make_network(
    agent_name: str, spec: EnvSpec, stack: int, dueling: bool = False, popart: bool = False, parts: int = 1
) -> Network:
    """With a policy and a value on top, or with dueling q-values."""
    width = 512 if len(spec.observation.shape) == 3 else 64
    return NETWORKS[agent_name](spec, stack, dueling=width if dueling else 0, popart=popart, parts=parts)
