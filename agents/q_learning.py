"""What Ape-X and R2D2 have in common: two dueling networks, of which one follows now and then, and an epsilon-greedy choice.

Not here: what they minimise (agents/apex.py, agents/r2d2.py), how a choice is made (agents/action_selection.py).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from agents.action_selection import epsilon_greedy
from agents.networks.zoo import make_network
from agents.ops import value_learning
from mlma.core.config import Config
from mlma.core.flat_weights import dummy_timestep
from mlma.core.types import ActionNoise, ActOutput, EnvSpec, TimeStep


class QLearningAgent:
    """The part of mlma.core.types.Agent that acts and keeps the target network; a paper adds `windows`, `_targets` and `loss`."""

    batch_loss = "mean"
    num_statistics = 0

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        self._config = config
        self.network, self._target = (
            make_network(
                config.run.agent_name,
                spec,
                config.learner.num_stacked_frames,
                dueling=True,
                num_shards=config.learner.gradient_shards,
            )
            for _ in range(2)
        )
        for network in (self.network, self._target):
            network(dummy_timestep(spec, 1, 1), network.initial_state(1))  # Sonnet makes variables at the first call
        self.target_variables: list[Any] = list(self._target.variables)
        self._copy()

    def _copy(self) -> None:
        for slow, variable in zip(self.target_variables, self.network.variables, strict=True):
            slow.assign(variable)

    def on_learner_step(self, step: int) -> None:
        if step % self._config.replay.target_period == 0:
            self._copy()

    def update_statistics(self, statistics: Any) -> None:
        """There are none."""

    def initial_state(self, batch_size: int) -> Any:
        return self.network.initial_state(batch_size)

    def exploration_epsilons(self, env_indices: Any, num_envs: int) -> Any:
        ladder = self._config.actor.exploration_base, self._config.actor.exploration_exponent
        return value_learning.epsilon_ladder(tf.constant(env_indices), num_envs, *ladder).numpy()

    def act(self, timestep: TimeStep, agent_state: Any, noise: ActionNoise) -> tuple[ActOutput, Any]:
        """[E, ...] -> an action for each environment; its q-values travel in place of logits."""
        one_step = tf.nest.map_structure(lambda x: None if x is None else x[tf.newaxis], timestep)  # [1, E, ...]
        output, agent_state = self.network(one_step, agent_state)
        q = output.logits[0]  # [E, A]
        return ActOutput(epsilon_greedy(q, noise), q, tf.reduce_max(q, axis=-1)), agent_state

    def initial_priorities(self, timesteps: TimeStep, acted: ActOutput) -> tf.Tensor:
        """|delta| by the q-values with which the actor acted, both for choosing and for valuing: [T+1, E] -> [T, E].

        The last n - 1 of a trajectory look ahead to its end only.
        """
        return tf.abs(
            self._targets(timesteps, acted.value) - value_learning.batched_index(acted.logits, acted.action)[:-1]
        )

    def sequence_priorities(self, td_errors: Any, mask: Any) -> Any:
        """[L, N] each -> [N]: R2D2, section 2.3."""
        return value_learning.sequence_priorities(td_errors, mask, self._config.replay.priority_eta)

    def _targets(self, timesteps: TimeStep, values: tf.Tensor) -> tf.Tensor:
        """What each step is learned towards, from the values of all steps: [T+1, B] -> [T, B]."""
        raise NotImplementedError
