"""R2D2: Kapturowski et al., ICLR 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning".

Ape-X with recurrent networks (section 2.3): sequences within one episode, with the actor's recurrent state, which a
burn-in without gradient warms up; rescaled values instead of clipped rewards. The loss is SUMMED over the steps of a
sequence and is the MEAN over the batch, and over several learners. Not here: acting and the target network
(agents/q_learning.py), the equations (agents/ops/value_learning.py), where sequences start
(mlma/replay/prioritized_replay.py).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from agents.ops import value_learning
from agents.q_learning import QLearningAgent
from agents.reward_clipping import clip_rewards
from mlma.core.config import Config
from mlma.core.types import EnvSpec, LossOutput, ReplayWindowSpec, Sample, TimeStep


class R2D2(QLearningAgent):
    """See mlma.core.types.Agent."""

    # The LSTM receives the last reward (appendix), and rewards are not clipped (section 2.3). SEED RL has it like this
    # too (atari/networks.py); Acme takes its hyperbolic tangent (acme/tf/networks/embedding.py).
    clip_last_reward = False

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        """Builds both networks; a network without an LSTM is allowed."""
        super().__init__(config, spec)
        self.replay_windows: ReplayWindowSpec | None = ReplayWindowSpec(
            every_step=False, burn_in=config.replay.burn_in, length=config.replay.sequence_length
        )

    def _targets(self, timesteps: TimeStep, values: tf.Tensor) -> tf.Tensor:
        """h(r + .. + gamma^n h^-1(Q)) from the values of all steps: [T+1, B] -> [T, B]."""
        targets = value_learning.n_step_bootstrapped_returns(
            clip_rewards(timesteps.reward, self._config.learner.reward_clipping, timesteps.extras.get("level"))[1:],
            self._config.learner.discounting * timesteps.discount[1:],
            tf.logical_not(timesteps.is_first[1:]),
            value_learning.signed_parabolic(values),
            self._config.replay.n_step,
        )
        return value_learning.signed_hyperbolic(targets)  # section 2.3

    def loss(self, sample: Sample) -> LossOutput:
        """Half the squared TD errors after the burn-in, up to the end of the episode, weighted by importance."""
        trajectory = sample.trajectory
        burn_in = self._config.replay.burn_in
        timesteps = tf.nest.map_structure(lambda x: x[burn_in:], trajectory.timesteps)  # [L+1, B]
        actions = trajectory.act_outputs.action[burn_in:-1]  # [L, B]
        q = self._unroll(self.network, trajectory)  # [L+1, B, A]
        values = value_learning.double_q(q, self._unroll(self._target_network, trajectory))  # [L+1, B]
        targets = tf.stop_gradient(self._targets(timesteps, values))  # [L, B]
        # A sequence ends with its episode; the steps of the next episode belong to another sequence.
        valid_mask = tf.cast(tf.logical_not(timesteps.is_first[1:]), tf.float32)
        mask = tf.math.cumprod(valid_mask, axis=0)  # [L, B]
        q_of_action = value_learning.batched_index(q[:-1], actions)  # [L, B]
        td_errors = (targets - q_of_action) * mask
        losses = 0.5 * tf.reduce_sum(tf.square(td_errors), axis=0)  # [B]
        total = tf.reduce_mean(sample.importance_weights * losses)
        num_steps = tf.reduce_sum(mask)
        metrics = {
            "loss/total": total,
            "q/mean": tf.reduce_sum(q_of_action * mask) / num_steps,
            "q/max": tf.reduce_max(q),
            "replay/error": tf.reduce_sum(tf.abs(td_errors)) / num_steps,
            "replay/weight": tf.reduce_mean(sample.importance_weights),
            "replay/learned_from": tf.reduce_mean(mask),
        }
        priorities = value_learning.sequence_priorities(td_errors, mask, self._config.replay.priority_eta)
        return LossOutput(total, priorities, metrics)

    def _unroll(self, network: Any, trajectory: Any) -> tf.Tensor:
        """Q-values of the steps after the burn-in, through which no gradient flows: [L+1, B, A]."""
        burn_in, state = self._config.replay.burn_in, trajectory.agent_state
        if burn_in:
            warm_up = tf.nest.map_structure(lambda x: x[:burn_in], trajectory.timesteps)
            _, state = network(warm_up, state)
            state = tf.nest.map_structure(lambda x: None if x is None else tf.stop_gradient(x), state)
        output, _ = network(tf.nest.map_structure(lambda x: x[burn_in:], trajectory.timesteps), state)
        return output.logits
