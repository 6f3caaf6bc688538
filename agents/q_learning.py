"""The common part of Ape-X and R2D2: a dueling network, its target network, and epsilon-greedy acting.

Not here: targets and losses (agents/apex.py, agents/r2d2.py), epsilon-greedy selection (agents/action_selection.py).
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
    """Everything of mlma.core.types.Agent but `replay_windows` and `loss`; a subclass adds these and `_targets`."""

    batch_loss = "mean"
    num_statistics = 0
    clip_last_reward = True  # where the last reward is an input of the network

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        """Builds both networks, with equal variables."""
        self._config = config
        self.network, self._target_network = (
            make_network(config, spec, dueling=True, clip_last_reward=self.clip_last_reward) for _ in range(2)
        )
        for network in (self.network, self._target_network):
            network(dummy_timestep(spec, 1, 1), network.initial_state(1))  # Sonnet creates variables at the first call
        self.target_variables: list[Any] = list(self._target_network.variables)
        self._update_target()

    def _update_target(self) -> None:
        for target, variable in zip(self.target_variables, self.network.variables, strict=True):
            target.assign(variable)

    def on_learner_step(self, step: int) -> None:
        """Copies the network to the target network every `--target_period` learner steps."""
        if step % self._config.replay.target_period == 0:
            self._update_target()

    def update_statistics(self, statistics: Any) -> None:
        """Does nothing: there are no statistics."""

    def initial_state(self, batch_size: int) -> Any:
        """See mlma.core.types.Agent."""
        return self.network.initial_state(batch_size)

    def exploration_epsilons(self, env_indices: Any, num_envs: int) -> Any:
        """The steps of the epsilon ladder that belong to these environments: float32 [E]."""
        ladder = self._config.actor.exploration_base, self._config.actor.exploration_exponent
        return value_learning.epsilon_ladder(tf.constant(env_indices), num_envs, *ladder).numpy()

    def act(self, timestep: TimeStep, agent_state: Any, noise: ActionNoise) -> tuple[ActOutput, Any]:
        """Epsilon-greedy actions for E environments; the logits of the output are the q-values."""
        one_step = tf.nest.map_structure(lambda x: None if x is None else x[tf.newaxis], timestep)  # [1, E, ...]
        output, agent_state = self.network(one_step, agent_state)
        q = output.logits[0]  # [E, A]
        return ActOutput(epsilon_greedy(q, noise), q, tf.reduce_max(q, axis=-1)), agent_state

    def initial_priorities(self, timesteps: TimeStep, acted: ActOutput) -> tf.Tensor:
        """|delta| from the q-values that the actor acted with, which both select and evaluate: [T+1, E] -> [T, E].

        The returns of the last n - 1 steps of a trajectory end with the trajectory.
        """
        targets = self._targets(timesteps, acted.value)
        return tf.abs(targets - value_learning.batched_index(acted.logits, acted.action)[:-1])

    def sequence_priorities(self, td_errors: Any, mask: Any) -> Any:
        """[L, N] both -> [N]: R2D2, section 2.3."""
        return value_learning.sequence_priorities(td_errors, mask, self._config.replay.priority_eta)

    def _targets(self, timesteps: TimeStep, values: tf.Tensor) -> tf.Tensor:
        """The regression targets of the q-values, from the values of all steps: [T+1, B] -> [T, B]."""
        raise NotImplementedError
