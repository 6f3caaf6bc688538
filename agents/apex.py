"""Ape-X DQN: Horgan et al. 2018 (arXiv 1803.00933), section 4.1. Its replay windows, targets and loss.

Double Q-learning (van Hasselt et al. 2016) with n-step returns and a dueling network, on windows from a prioritized
replay. The loss is the MEAN over the batch, and over several learners. Not here: acting and the target network
(agents/q_learning.py), the equations (agents/ops/value_learning.py), the replay (mlma/replay/prioritized_replay.py),
networks (agents/networks/zoo.py).
"""

from __future__ import annotations

import tensorflow as tf

from agents.networks.frame_stack import stack_frames
from agents.ops import value_learning
from agents.q_learning import QLearningAgent
from agents.reward_clipping import clip_rewards
from mlma.core.config import Config
from mlma.core.types import EnvSpec, LossOutput, NetworkState, ReplayWindowSpec, Sample, TimeStep


class Apex(QLearningAgent):
    """See mlma.core.types.Agent."""

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        """ValueError for a network with an LSTM, since a window has no steps to warm up its state."""
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
        return value_learning.n_step_bootstrapped_returns(
            clip_rewards(timesteps.reward, self._config.learner.reward_clipping, timesteps.extras.get("level"))[1:],
            self._config.learner.discounting * timesteps.discount[1:],
            tf.logical_not(timesteps.is_first[1:]),
            values,
            self._config.replay.n_step,
        )

    def loss(self, sample: Sample) -> LossOutput:
        """Half the squared n-step TD error of the first step of each window, weighted by importance."""
        trajectory = sample.trajectory
        timesteps = trajectory.timesteps  # [n+1, B], from x_t on
        if trajectory.agent_state.frames is not None:
            stacks, _ = stack_frames(timesteps.observation, timesteps.is_first, trajectory.agent_state.frames)
            timesteps = timesteps._replace(observation=stacks)
        num_steps = value_learning.steps_within_episode(tf.logical_not(timesteps.is_first[1:]))  # [B], n or fewer
        first, last = _select_steps(timesteps, tf.zeros_like(num_steps)), _select_steps(timesteps, num_steps)  # [1, B]
        state = NetworkState(None, None)  # frames are already stacked

        q = self.network(first, state)[0].logits[0]  # [B, A]
        online = self.network(last, state)[0].logits[0]  # [B, A]
        target = self._target_network(last, state)[0].logits[0]  # [B, A]
        value = value_learning.double_q(online, target)  # [B]
        # The target of step 0 depends only on the value of the step where the return ends, so all steps get that value.
        targets = self._targets(timesteps, tf.repeat(value[tf.newaxis], timesteps.is_first.shape[0], axis=0))  # [n, B]
        q_of_action = value_learning.batched_index(q, trajectory.act_outputs.action[0])  # [B]
        td_errors = tf.stop_gradient(targets[0]) - q_of_action
        total = tf.reduce_mean(sample.importance_weights * 0.5 * tf.square(td_errors))  # section 4.1
        priorities = tf.abs(td_errors)
        metrics = {
            "loss/total": total,
            "q/mean": tf.reduce_mean(q_of_action),
            "q/max": tf.reduce_max(q),
            "replay/error": tf.reduce_mean(priorities),
            "replay/weight": tf.reduce_mean(sample.importance_weights),
        }
        return LossOutput(total, priorities, metrics)


def _select_steps(timesteps: TimeStep, steps: tf.Tensor) -> TimeStep:
    """Step `steps[b]` of each window b, with the fields that a network reads: a TimeStep [1, B]."""
    indices = tf.stack([steps, tf.range(tf.shape(steps)[0])], axis=1)  # [B, 2]
    inputs = {name: getattr(timesteps, name) for name in ("observation", "reward", "is_first", "last_action", "extras")}
    return timesteps._replace(**tf.nest.map_structure(lambda x: tf.gather_nd(x, indices)[tf.newaxis], inputs))
