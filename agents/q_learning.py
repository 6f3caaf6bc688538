"""What Ape-X and R2D2 have in common: two dueling networks, of which one follows now and then, and an epsilon-greedy choice.

Not here: what they minimise (agents/apex.py, agents/r2d2.py), how a choice is made (agents/action_selection.py).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from agents.action_selection import epsilon_greedy
from agents.networks.zoo import make_network
from agents.ops.value_learning import batched_index, epsilon_ladder
from mlma.core.config.config import Config
from mlma.core.flat_weights import dummy_timestep
from mlma.core.types import ActionNoise, ActOutput, EnvSpec, TimeStep


class QLearningAgent:
    """The part of mlma.core.types.Agent that acts and keeps the target network; a paper adds `windows`, `_targets` and `loss`."""

    batch_loss = "mean"
    statistics = 0

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        self._config = config
        self.network, self._target = (
            make_network(config.agent_name, spec, config.num_stacked_frames, dueling=True, parts=config.learner_parts)
            for _ in range(2)
        )
        for network in (self.network, self._target):
            network(dummy_timestep(spec, 1, 1), network.initial_state(1))  # Sonnet makes variables at the first call
        self.slow: list[Any] = list(self._target.variables)
        self._copy()

    def _copy(self) -> None:
        for slow, variable in zip(self.slow, self.network.variables, strict=True):
            slow.assign(variable)

    def after_step(self, step: int) -> None:
        if step % self._config.target_period == 0:
            self._copy()

    def normalise(self, statistics: Any) -> None:
        """There are none."""

    def initial_state(self, batch_size: int) -> Any:
        return self.network.initial_state(batch_size)

    def epsilons(self, places: Any, count: int) -> Any:
        ladder = self._config.exploration_base, self._config.exploration_exponent
        return epsilon_ladder(tf.constant(places), count, *ladder).numpy()

    def act(self, timestep: TimeStep, agent_state: Any, chance: ActionNoise) -> tuple[ActOutput, Any]:
        """[E, ...] -> an action for each environment; its q-values travel in place of logits."""
        one_step = tf.nest.map_structure(lambda x: None if x is None else x[tf.newaxis], timestep)  # [1, E, ...]
        output, agent_state = self.network(one_step, agent_state)
        q = output.logits[0]  # [E, A]
        return ActOutput(epsilon_greedy(q, chance), q, tf.reduce_max(q, axis=-1)), agent_state

    def errors(self, timesteps: TimeStep, acted: ActOutput) -> tf.Tensor:
        """|delta| by the q-values with which the actor acted, both for choosing and for valuing: [T+1, E] -> [T, E].

        The last n - 1 of a trajectory look ahead to its end only.
        """
        return tf.abs(self._targets(timesteps, acted.value) - batched_index(acted.logits, acted.action)[:-1])

    def _targets(self, timesteps: TimeStep, values: tf.Tensor) -> tf.Tensor:
        """What each step is learned towards, from the values of all steps: [T+1, B] -> [T, B]."""
        raise NotImplementedError
