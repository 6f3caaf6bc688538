"""The distribution of a policy over actions: of those in a list, or of vectors with real numbers.

The parameters of a distribution are what the network's policy head returns and what travels with a trajectory as the
behaviour policy: logits [A], or as in mlma/core/actions.py for actions with real numbers. Those are the joint
distribution of independent parts: diagonal Gaussians and choices.

With --action_bounds=tanh, density and entropy are those of tanh(u) where u is Gaussian, by the change of variables. An
action is u itself, in records and in `log_prob`, so nothing has to be inverted. Not here: bounds and scales
(mlma/envs/action_spaces.py), the greedy action (mlma.core.actions.greedy_actions).
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import tensorflow as tf

from agents.action_selection import sample_from_logits
from agents.ops.vtrace import log_probs_from_logits_and_actions
from mlma.core.actions import num_parameters, part_width
from mlma.core.types import BoxPart, EnvSpec

LOG_SQRT_2_PI = 0.5 * math.log(2 * math.pi)
SMALLEST_UNIFORM = 1e-7  # of a random number in [0, 1), so that its quantile is finite: at most 5.2 spreads
QUADRATURE_NODES = 16  # for the mean of a smooth function of a Gaussian


class ActionDistribution(Protocol):
    """A family of distributions over actions. `...` is any leading shape."""

    num_parameters: int

    def sample(self, parameters: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Actions [E, ...] from parameters [E, P] and random numbers in [0, 1) of the shape of the actions."""
        ...

    def log_prob(self, parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """The log of the probability, or of the density, of a whole action: [...]."""
        ...

    def entropy(self, parameters: tf.Tensor) -> tf.Tensor:
        """In nats: [...]. That of real numbers can be negative."""
        ...

    def metrics(self, parameters: tf.Tensor) -> dict[str, tf.Tensor]:
        """Name of a metric -> [...]."""
        ...


class Categorical:
    """See ActionDistribution: one of A actions, by their logits [..., A]."""

    def __init__(self, num_actions: int) -> None:
        self.num_parameters = num_actions

    def sample(self, parameters: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """See ActionDistribution."""
        return sample_from_logits(parameters, uniform)

    def log_prob(self, parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """See ActionDistribution."""
        return log_probs_from_logits_and_actions(parameters, actions)

    def entropy(self, parameters: tf.Tensor) -> tf.Tensor:
        """See ActionDistribution."""
        log_pi = tf.nn.log_softmax(parameters)
        return -tf.reduce_sum(tf.exp(log_pi) * log_pi, axis=-1)

    def metrics(self, parameters: tf.Tensor) -> dict[str, tf.Tensor]:
        """See ActionDistribution."""
        if self.num_parameters != 2:
            return {}
        return {"policy/p_action_1": tf.exp(tf.nn.log_softmax(parameters)[..., 1])}


class Gaussian:
    """See ActionDistribution: D independent real numbers, by their means and log spreads [..., 2 D]."""

    def __init__(self, squashed: tuple[bool, ...]) -> None:
        """`squashed`: for each number, whether the environment receives its tanh."""
        self._size = len(squashed)
        self.num_parameters = 2 * self._size
        self._squashed = tf.constant(squashed, tf.float32) if any(squashed) else None

    def _split(self, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return parameters[..., : self._size], parameters[..., self._size :]

    def sample(self, parameters: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """See ActionDistribution: by the quantiles of the Gaussian."""
        mean, log_spread = self._split(parameters)
        uniform = tf.clip_by_value(uniform, SMALLEST_UNIFORM, 1 - SMALLEST_UNIFORM)
        return mean + tf.exp(log_spread) * tf.math.ndtri(uniform)

    def log_prob(self, parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """See ActionDistribution."""
        mean, log_spread = self._split(parameters)
        log_density = -0.5 * tf.square((actions - mean) * tf.exp(-log_spread)) - log_spread - LOG_SQRT_2_PI
        if self._squashed is not None:
            log_density -= self._squashed * _log_slope_of_tanh(actions)
        return tf.reduce_sum(log_density, axis=-1)

    def entropy(self, parameters: tf.Tensor) -> tf.Tensor:
        """See ActionDistribution. That of a squashed number adds the mean of log(1 - tanh(u)^2), by quadrature."""
        mean, log_spread = self._split(parameters)
        entropy = log_spread + LOG_SQRT_2_PI + 0.5
        if self._squashed is not None:
            nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
            u = mean[..., tf.newaxis] + tf.exp(log_spread)[..., tf.newaxis] * nodes.astype(np.float32)
            weights = (weights / weights.sum()).astype(np.float32)
            entropy += self._squashed * tf.reduce_sum(weights * _log_slope_of_tanh(u), axis=-1)
        return tf.reduce_sum(entropy, axis=-1)

    def metrics(self, parameters: tf.Tensor) -> dict[str, tf.Tensor]:
        """See ActionDistribution."""
        mean, log_spread = self._split(parameters)
        return {
            "policy/spread": tf.reduce_mean(tf.exp(log_spread), axis=-1),
            "policy/mean_size": tf.reduce_mean(tf.abs(mean), axis=-1),
        }


class Joint:
    """See ActionDistribution: independent parts, whose parameters and elements of the action follow one another."""

    def __init__(self, parts: list[tuple[Categorical | Gaussian, int]]) -> None:
        """`parts`: the distribution of each part, and the number of its elements in an action."""
        self._distributions = [distribution for distribution, _ in parts]
        self._sizes = [distribution.num_parameters for distribution in self._distributions]
        self._widths = [width for _, width in parts]
        self.num_parameters = sum(self._sizes)

    def _split(self, parameters: tf.Tensor) -> list[tuple[Categorical | Gaussian, tf.Tensor]]:
        return list(zip(self._distributions, tf.split(parameters, self._sizes, axis=-1), strict=True))

    def _split_actions(self, actions: tf.Tensor) -> list[tf.Tensor]:
        """The elements of each part: [..., D], or [...] for a choice."""
        return [
            tf.squeeze(elements, axis=-1) if isinstance(distribution, Categorical) else elements
            for distribution, elements in zip(
                self._distributions, tf.split(actions, self._widths, axis=-1), strict=True
            )
        ]

    def sample(self, parameters: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """See ActionDistribution."""
        samples = [
            distribution.sample(own, noise)
            for (distribution, own), noise in zip(self._split(parameters), self._split_actions(uniform), strict=True)
        ]
        columns = [
            tf.cast(sample, tf.float32)[..., tf.newaxis] if isinstance(distribution, Categorical) else sample
            for distribution, sample in zip(self._distributions, samples, strict=True)
        ]
        return tf.concat(columns, axis=-1)

    def log_prob(self, parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """See ActionDistribution."""
        return tf.add_n(
            [
                distribution.log_prob(own, tf.cast(a, tf.int32) if isinstance(distribution, Categorical) else a)
                for (distribution, own), a in zip(self._split(parameters), self._split_actions(actions), strict=True)
            ]
        )

    def entropy(self, parameters: tf.Tensor) -> tf.Tensor:
        """See ActionDistribution."""
        return tf.add_n([distribution.entropy(own) for distribution, own in self._split(parameters)])

    def metrics(self, parameters: tf.Tensor) -> dict[str, tf.Tensor]:
        """See ActionDistribution: means over the parts with real numbers."""
        found = [d.metrics(own) for d, own in self._split(parameters) if isinstance(d, Gaussian)]
        return {name: tf.add_n([each[name] for each in found]) / len(found) for name in found[0]}


def make_distribution(spec: EnvSpec, action_bounds: str) -> ActionDistribution:
    """The family of a policy for levels with this spec; `action_bounds` is the flag."""
    if not spec.action_parts:
        return Categorical(spec.num_actions)
    parts: list[tuple[Categorical | Gaussian, int]] = []
    for part in spec.action_parts:
        if isinstance(part, BoxPart):
            squashed = tuple(bounded and action_bounds == "tanh" for bounded in part.bounded)
            parts.append((Gaussian(squashed), part_width(part)))
        else:
            parts.append((Categorical(num_parameters(part)), 1))
    return Joint(parts)


def _log_slope_of_tanh(u: tf.Tensor) -> tf.Tensor:
    """log(1 - tanh(u)^2), also where the tanh is 1 in float32."""
    return 2 * (math.log(2) - u - tf.nn.softplus(-2 * u))
