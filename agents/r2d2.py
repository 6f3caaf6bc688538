"""R2D2: Kapturowski et al., "Recurrent Experience Replay in Distributed Reinforcement Learning", ICLR 2019, section 2.3.

Ape-X with memory: sequences with the recurrent state that the actor had, warmed up by a burn-in without gradient, within one
game; rescaled values instead of clipped rewards. The loss is SUMMED over the steps of a sequence and is the MEAN over the
batch; several learners take the mean of theirs. Not here: the equations (agents/ops/value_learning.py), where sequences begin
(mlma/replay/prioritized_replay.py).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from agents.ops.value_learning import (
    batched_index,
    double_q,
    n_step_bootstrapped_returns,
    sequence_priorities,
    signed_hyperbolic,
    signed_parabolic,
)
from agents.q_learning import QLearningAgent
from agents.reward_clipping import clip_rewards
from mlma.core.config import Config
from mlma.core.types import EnvSpec, LossOutput, ReplayWindowSpec, Sample, TimeStep


class R2D2(QLearningAgent):
    """See mlma.core.types.Agent."""

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        super().__init__(config, spec)
        self.replay_windows: ReplayWindowSpec | None = ReplayWindowSpec(
            every_step=False, burn_in=config.replay.burn_in, length=config.replay.sequence_length
        )

    def _targets(self, timesteps: TimeStep, values: tf.Tensor) -> tf.Tensor:
        """h(r + .. + gamma^n h^-1(Q)) from the values of all steps: [T+1, B] -> [T, B]."""
        targets = n_step_bootstrapped_returns(
            clip_rewards(timesteps.reward, self._config.learner.reward_clipping, timesteps.extras.get("level"))[1:],
            self._config.learner.discounting * timesteps.discount[1:],
            tf.logical_not(timesteps.is_first[1:]),
            signed_parabolic(values),
            self._config.replay.n_step,
        )
        return signed_hyperbolic(targets)  # section 2.3

    def loss(self, sample: Sample) -> LossOutput:
        trajectory = sample.trajectory
        burn_in = self._config.replay.burn_in
        timesteps = tf.nest.map_structure(lambda x: x[burn_in:], trajectory.timesteps)  # [L+1, B]
        actions = trajectory.act_outputs.action[burn_in:-1]  # [L, B]
        q = self._unroll(self.network, trajectory)  # [L+1, B, A]
        values = double_q(q, self._unroll(self._target, trajectory))  # [L+1, B]
        targets = tf.stop_gradient(self._targets(timesteps, values))  # [L, B]
        # A sequence ends with its game: what is after it is another sequence's.
        real = tf.cast(tf.logical_not(timesteps.is_first[1:]), tf.float32)
        mask = tf.math.cumprod(real, axis=0)  # [L, B]
        of_action = batched_index(q[:-1], actions)  # [L, B]
        errors = (targets - of_action) * mask
        losses = 0.5 * tf.reduce_sum(tf.square(errors), axis=0)  # [B]
        total = tf.reduce_mean(sample.importance_weights * losses)
        steps = tf.reduce_sum(mask)
        metrics = {
            "loss/total": total,
            "q/mean": tf.reduce_sum(of_action * mask) / steps,
            "q/max": tf.reduce_max(q),
            "replay/error": tf.reduce_sum(tf.abs(errors)) / steps,
            "replay/weight": tf.reduce_mean(sample.importance_weights),
            "replay/learned_from": tf.reduce_mean(mask),
        }
        priorities = sequence_priorities(errors, mask, self._config.replay.priority_eta)
        return LossOutput(total, priorities, metrics)

    def _unroll(self, network: Any, trajectory: Any) -> tf.Tensor:
        """Q-values of the steps after the burn-in, which leaves a state and no gradient: [L+1, B, A]."""
        burn_in, state = self._config.replay.burn_in, trajectory.agent_state
        if burn_in:
            warm = tf.nest.map_structure(lambda x: x[:burn_in], trajectory.timesteps)
            _, state = network(warm, state)
            state = tf.nest.map_structure(lambda x: None if x is None else tf.stop_gradient(x), state)
        output, _ = network(tf.nest.map_structure(lambda x: x[burn_in:], trajectory.timesteps), state)
        return output.logits
