"""R2D2: Kapturowski et al., "Recurrent Experience Replay in Distributed Reinforcement Learning", ICLR 2019, section 2.3.

Ape-X with memory: sequences with the recurrent state that the actor had, warmed up by a burn-in without gradient, within one
game; rescaled values instead of clipped rewards. The loss is SUMMED over the steps of a sequence and is the MEAN over the
batch; several learners take the mean of theirs. Not here: the equations (mlma/value_learning.py), where sequences begin
(mlma/replay.py).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from agents.rewards import clip_rewards
from agents.value_learner import ValueLearner
from mlma import value_learning
from mlma.config import Config
from mlma.types import EnvSpec, LossOutput, Sample, TimeStep, Windows
from mlma.value_learning import rescale, unrescale


class R2D2(ValueLearner):
    """See mlma.types.Agent."""

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        super().__init__(config, spec)
        self.windows: Windows | None = Windows(every_step=False, burn_in=config.burn_in, length=config.sequence_length)

    def _targets(self, timesteps: TimeStep, values: tf.Tensor) -> tf.Tensor:
        """h(r + .. + gamma^n h^-1(Q)) from the values of all steps: [T+1, B] -> [T, B]."""
        targets = value_learning.n_step_targets(
            clip_rewards(timesteps.reward, self._config.reward_clipping, timesteps.more.get("level"))[1:],
            self._config.discounting * timesteps.discount[1:],
            tf.logical_not(timesteps.first[1:]),
            unrescale(values),
            self._config.n_step,
        )
        return rescale(targets)  # section 2.3

    def loss(self, sample: Sample) -> LossOutput:
        trajectory = sample.trajectory
        burn_in = self._config.burn_in
        timesteps = tf.nest.map_structure(lambda x: x[burn_in:], trajectory.timesteps)  # [L+1, B]
        actions = trajectory.act_outputs.action[burn_in:-1]  # [L, B]
        q = self._unroll(self.network, trajectory)  # [L+1, B, A]
        values = value_learning.double_q(q, self._unroll(self._target, trajectory))  # [L+1, B]
        targets = tf.stop_gradient(self._targets(timesteps, values))  # [L, B]
        # A sequence ends with its game: what is after it is another sequence's.
        real = tf.cast(tf.logical_not(timesteps.first[1:]), tf.float32)
        mask = tf.math.cumprod(real, axis=0)  # [L, B]
        of_action = value_learning.of_action(q[:-1], actions)  # [L, B]
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
        priorities = value_learning.sequence_priorities(errors, mask, self._config.priority_eta)
        return LossOutput(total, priorities, metrics)

    def _unroll(self, network: Any, trajectory: Any) -> tf.Tensor:
        """Q-values of the steps after the burn-in, which leaves a state and no gradient: [L+1, B, A]."""
        burn_in, state = self._config.burn_in, trajectory.agent_state
        if burn_in:
            warm = tf.nest.map_structure(lambda x: x[:burn_in], trajectory.timesteps)
            _, state = network(warm, state)
            state = tf.nest.map_structure(lambda x: None if x is None else tf.stop_gradient(x), state)
        output, _ = network(tf.nest.map_structure(lambda x: x[burn_in:], trajectory.timesteps), state)
        return output.logits
