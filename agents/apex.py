"""Ape-X DQN: Horgan et al. 2018 (arXiv 1803.00933), section 4.1. How it acts and what it minimises; nothing else.

Double Q-learning (van Hasselt et al. 2016) with n-step returns and a dueling network, from a prioritized replay. The loss is
the MEAN over the batch; several learners take the mean of theirs. Not here: the equations (mlma/value_learning.py), the
replay (mlma/replay.py), networks (agents/networks.py).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from agents import networks
from agents.exploration import EpsilonGreedy
from agents.rewards import clip_rewards
from mlma import value_learning
from mlma.config import Config
from mlma.types import ActOutput, EnvSpec, LossOutput, NetworkState, Sample, TimeStep, Windows
from mlma.weights import dummy_timestep


class Apex:
    """See mlma.types.Agent."""

    batch_loss = "mean"

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        """ValueError for a network with memory: a window has no room to warm it up. That is R2D2."""
        self._config = config
        self.windows: Windows | None = Windows(every_step=True, burn_in=0, length=config.n_step)
        self.network, self._target = (
            networks.make(config.agent_name, spec, config.num_stacked_frames, dueling=True) for _ in range(2)
        )
        if self.network.initial_state(1).core is not None:
            raise ValueError(f"--agent_name={config.agent_name}: has an LSTM, which needs --algorithm=r2d2 or impala")
        for network in (self.network, self._target):
            network(dummy_timestep(spec, 1, 1), network.initial_state(1))  # Sonnet makes variables at the first call
        self.slow: list[Any] = list(self._target.variables)
        self._copy()
        self._choose = EpsilonGreedy(config.test_epsilon, config.exploration_base, config.exploration_exponent)
        self.explore = self._choose.explore

    def _copy(self) -> None:
        for slow, variable in zip(self.slow, self.network.variables, strict=True):
            slow.assign(variable)

    def after_step(self, step: int) -> None:
        if step % self._config.target_period == 0:
            self._copy()

    def initial_state(self, batch_size: int) -> Any:
        return self.network.initial_state(batch_size)

    def act(self, timestep: TimeStep, agent_state: Any) -> tuple[ActOutput, Any]:
        """[E, ...] -> an action for each environment; its q-values travel in place of logits."""
        one_step = tf.nest.map_structure(lambda x: x[tf.newaxis], timestep)  # [1, E, ...]
        output, agent_state = self.network(one_step, agent_state)
        q = output.logits[0]  # [E, A]
        return ActOutput(self._choose(q), q, tf.reduce_max(q, axis=-1)), agent_state

    def errors(self, timesteps: TimeStep, acted: ActOutput) -> tf.Tensor:
        """|delta| by the q-values with which the actor acted, both for choosing and for valuing: [T+1, E] -> [T, E].

        The last n - 1 of a trajectory look ahead to its end only.
        """
        return tf.abs(self._targets(timesteps, acted.value) - value_learning.of_action(acted.logits, acted.action)[:-1])

    def _targets(self, timesteps: TimeStep, values: tf.Tensor) -> tf.Tensor:
        """n-step targets from the values of all steps: [T+1, B] -> [T, B]."""
        return value_learning.n_step_targets(
            clip_rewards(timesteps.reward[1:], self._config.reward_clipping),
            self._config.discounting * timesteps.discount[1:],
            tf.logical_not(timesteps.first[1:]),
            values,
            self._config.n_step,
        )

    def loss(self, sample: Sample) -> LossOutput:
        trajectory = sample.trajectory
        timesteps = trajectory.timesteps  # [n+1, B], from x_t on
        if trajectory.agent_state.frames is not None:
            stacks, _ = networks.stack_frames(timesteps.observation, timesteps.first, trajectory.agent_state.frames)
            timesteps = timesteps._replace(observation=stacks)
        ends = value_learning.steps_of_game(tf.logical_not(timesteps.first[1:]))  # [B]: n, or less where the game ends
        now, later = _at(timesteps, tf.zeros_like(ends)), _at(timesteps, ends)  # [1, B] each
        state = NetworkState(None, None)  # frames are stacked already

        q = self.network(now, state)[0].logits[0]  # [B, A]
        value = value_learning.double_q(self.network(later, state)[0].logits[0], self._target(later, state)[0].logits[0])  # [B]
        # Of the values of all steps only the one where the return ends is asked for.
        targets = self._targets(timesteps, tf.repeat(value[tf.newaxis], timesteps.first.shape[0], axis=0))  # [n, B]
        errors = tf.stop_gradient(targets[0]) - value_learning.of_action(q, trajectory.act_outputs.action[0])  # [B]
        total = tf.reduce_mean(sample.importance_weights * 0.5 * tf.square(errors))  # section 4.1
        priorities = tf.abs(errors)
        metrics = {
            "loss/total": total,
            "q/mean": tf.reduce_mean(q),
            "q/max": tf.reduce_max(q),
            "replay/error": tf.reduce_mean(priorities),
            "replay/weight": tf.reduce_mean(sample.importance_weights),
        }
        return LossOutput(total, priorities, metrics)


def _at(timesteps: TimeStep, steps: tf.Tensor) -> TimeStep:
    """Step `steps` [B] of each window, as a TimeStep [1, B] of what a network reads."""
    where = tf.stack([steps, tf.range(tf.shape(steps)[0])], axis=1)  # [B, 2]
    read = ("observation", "reward", "first", "last_action")
    return timesteps._replace(**{name: tf.gather_nd(getattr(timesteps, name), where)[tf.newaxis] for name in read})
