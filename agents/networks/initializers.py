"""How the weights of a network begin: the choices of `--initializers`.

`orthogonal` is this system's own: orthogonal layers before a ReLU in convolutional torsos and dueling streams, and a
policy that is close to uniform. `released` is what the authors' code has:

* IMPALA: github.com/google-deepmind/scalable_agent, experiment.py. All layers have the defaults of Sonnet 1, a
  truncated normal with standard deviation 1 / sqrt(inputs), also the policy; LSTMs are TensorFlow 1's LSTMBlockCell,
  whose matrix for input and hidden state together is Glorot uniform.
* Ape-X and R2D2: their code was not released, but DeepMind's Acme has both networks (acme/tf/networks/atari.py). All
  layers and the LSTM have the defaults of Sonnet 2, which are the same truncated normals.

Biases are 0 and the forget bias of LSTMs is 1 in all of them. Sonnet's initialiser is None here. DQN Zoo, which has
neither network, draws weights and biases of its DQNs from a uniform distribution instead.
"""

from __future__ import annotations

from typing import NamedTuple

import sonnet as snt


class Initializers(NamedTuple):
    """Initialisers of the weights; None is Sonnet's, a truncated normal with standard deviation 1 / sqrt(inputs)."""

    before_relu: snt.initializers.Initializer | None = None  # of convolutional torsos and dueling streams
    policy: snt.initializers.Initializer | None = None
    glorot_lstm: bool = False


# The gain of ReLU (Saxe et al. 2014) keeps the scale of signals through the layers.
ORTHOGONAL = Initializers(snt.initializers.Orthogonal(2**0.5), snt.initializers.TruncatedNormal(stddev=0.01))
RELEASED_ACTOR_CRITIC = Initializers(glorot_lstm=True)
RELEASED_Q_LEARNING = Initializers()


def choose_initializers(name: str, q_values: bool) -> Initializers:
    """Those of `--initializers`, for a network with q-values or with a policy and a value."""
    released = RELEASED_Q_LEARNING if q_values else RELEASED_ACTOR_CRITIC
    return {"orthogonal": ORTHOGONAL, "released": released}[name]


def glorot_for_lstm(inputs: int, size: int) -> snt.initializers.Initializer:
    """Glorot uniform for an LSTM's matrix [inputs + size, 4 size], of which both parts have the same distribution."""
    limit = (6 / (inputs + size + 4 * size)) ** 0.5
    return snt.initializers.RandomUniform(-limit, limit)
