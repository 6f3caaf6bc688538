"""Ape-X DQN: Horgan et al. 2018 (arXiv 1803.00933), section 4.1. How it acts and what it minimises; nothing else.

Double Q-learning (van Hasselt et al. 2016) with n-step returns and a dueling network, from a prioritized replay. The loss is
the MEAN over the batch; several learners take the mean of theirs. Not here: the equations (agents/ops/value_learning.py), the
replay (mlma/replay/prioritized_replay.py), networks (agents/networks/zoo.py).
"""

from __future__ import annotations

import tensorflow as tf

from agents.networks.frame_stack import stack_frames
from agents.ops.value_learning import batched_index, double_q, n_step_bootstrapped_returns, steps_within_episode
from agents.q_learning import QLearningAgent
from agents.reward_clipping import clip_rewards
from mlma.core.config import Config
from mlma.core.types import EnvSpec, LossOutput, NetworkState, ReplayWindowSpec, Sample, TimeStep


class Apex(QLearningAgent):
    """See mlma.core.types.Agent."""

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        """ValueError for a network with memory: a window has no room to warm it up. That is R2D2."""
        super().__init__(config, spec)
        self.replay_windows: ReplayWindowSpec | None = ReplayWindowSpec(
            every_step=True, burn_in=0, length=config.replay.n_step
        )
        if self.network.initial_state(1).core is not None:
            raise ValueError(
                f"--agent_name={config.run.agent_name}: has an LSTM, which needs --algorithm=r2d2 or impala"
            )

    def _targets(self, timesteps: TimeStep, values: tf.Tensor) -> tf.Tensor:
        """n-step targets from the values of all steps: [T+1, B] -> [T, B]."""
        return n_step_bootstrapped_returns(
            clip_rewards(timesteps.reward, self._config.learner.reward_clipping, timesteps.extras.get("level"))[1:],
            self._config.learner.discounting * timesteps.discount[1:],
            tf.logical_not(timesteps.is_first[1:]),
            values,
            self._config.replay.n_step,
        )

    def loss(self, sample: Sample) -> LossOutput:
        trajectory = sample.trajectory
        timesteps = trajectory.timesteps  # [n+1, B], from x_t on
        if trajectory.agent_state.frames is not None:
            stacks, _ = stack_frames(timesteps.observation, timesteps.is_first, trajectory.agent_state.frames)
            timesteps = timesteps._replace(observation=stacks)
        ends = steps_within_episode(tf.logical_not(timesteps.is_first[1:]))  # [B]: n, or less where the game ends
        now, later = _at(timesteps, tf.zeros_like(ends)), _at(timesteps, ends)  # [1, B] each
        state = NetworkState(None, None)  # frames are stacked already

        q = self.network(now, state)[0].logits[0]  # [B, A]
        value = double_q(self.network(later, state)[0].logits[0], self._target(later, state)[0].logits[0])  # [B]
        # Of the values of all steps only the one where the return ends is asked for.
        targets = self._targets(timesteps, tf.repeat(value[tf.newaxis], timesteps.is_first.shape[0], axis=0))  # [n, B]
        of_action = batched_index(q, trajectory.act_outputs.action[0])  # [B]
        errors = tf.stop_gradient(targets[0]) - of_action
        total = tf.reduce_mean(sample.importance_weights * 0.5 * tf.square(errors))  # section 4.1
        priorities = tf.abs(errors)
        metrics = {
            "loss/total": total,
            "q/mean": tf.reduce_mean(of_action),
            "q/max": tf.reduce_max(q),
            "replay/error": tf.reduce_mean(priorities),
            "replay/weight": tf.reduce_mean(sample.importance_weights),
        }
        return LossOutput(total, priorities, metrics)


def _at(timesteps: TimeStep, steps: tf.Tensor) -> TimeStep:
    """Step `steps` [B] of each window, as a TimeStep [1, B] of what a network reads."""
    where = tf.stack([steps, tf.range(tf.shape(steps)[0])], axis=1)  # [B, 2]
    read = {name: getattr(timesteps, name) for name in ("observation", "reward", "is_first", "last_action", "extras")}
    return timesteps._replace(**tf.nest.map_structure(lambda x: tf.gather_nd(x, where)[tf.newaxis], read))
