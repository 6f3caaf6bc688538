"""IMPALA: Espeholt et al. 2018 (arXiv 1802.01561), section 4. How it acts, and its loss.

The loss is SUMMED over time, batch and several learners, as in the paper's code. Not here: V-trace
(agents/ops/vtrace.py), networks (agents/networks/zoo.py), the loops (mlma/acting/environment_loop.py,
mlma/learning/training_loop.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from agents.action_distributions import make_distribution
from agents.networks.network import numbers_of
from agents.networks.zoo import make_network
from agents.ops import vtrace
from agents.reward_clipping import clip_rewards
from mlma.core.config import Config
from mlma.core.types import ActionNoise, ActOutput, EnvSpec, LossOutput, ReplayWindowSpec, Sample, TimeStep


class Impala:
    """See mlma.core.types.Agent."""

    replay_windows: ReplayWindowSpec | None = None
    batch_loss = "sum"

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        """Builds the network, with a policy and a value head; Sonnet creates its variables at the first call."""
        self._config = config
        self.target_variables: list[Any] = []
        self.network = make_network(config, spec)
        self._distribution = make_distribution(spec, config.environment.action_bounds)
        normalizer = self.network.normalizer
        self._statistics_sizes = [
            self.network.value_head.num_statistics,
            normalizer.num_statistics if normalizer else 0,
        ]
        self.num_statistics = sum(self._statistics_sizes)

    def initial_state(self, batch_size: int) -> Any:
        """See mlma.core.types.Agent."""
        return self.network.initial_state(batch_size)

    def act(self, timestep: TimeStep, agent_state: Any, noise: ActionNoise) -> tuple[ActOutput, Any]:
        """Actions for E environments, sampled from the policy."""
        one_step = tf.nest.map_structure(lambda x: None if x is None else x[tf.newaxis], timestep)  # [1, E, ...]
        output, agent_state = self.network(one_step, agent_state)
        logits = output.logits[0]  # [E, A]
        return ActOutput(self._distribution.sample(logits, noise.uniform), logits, output.value[0]), agent_state

    def loss(self, sample: Sample) -> LossOutput:
        """Policy gradient, value loss and entropy bonus of section 4.2, on V-trace targets."""
        config, trajectory = self._config.learner, sample.trajectory
        timesteps, acted = trajectory.timesteps, trajectory.act_outputs
        output, _ = self.network(timesteps, trajectory.agent_state)  # [T+1, B]

        # Action t leads from x_t to x_{t+1}, where its reward arrives.
        logits, values = output.logits[:-1], output.value[:-1]  # [T, B, A], [T, B]
        actions, behaviour_logits = acted.action[:-1], acted.logits[:-1]
        discounts = config.discounting * timesteps.discount[1:]
        rewards = clip_rewards(timesteps.reward, config.reward_clipping, timesteps.extras.get("level"))[1:]
        # The step into a new episode is not a transition. With discount 0 and its value as the reward, its delta and
        # advantage are 0 and its target is V(x), from which a truncated episode bootstraps.
        valid_mask = _as_float(tf.logical_not(timesteps.is_first[1:]))  # [T, B]
        behaviour_log_probs = self._distribution.log_prob(behaviour_logits, actions)
        log_probs = self._distribution.log_prob(logits, actions)  # [T, B]
        log_rhos = log_probs - behaviour_log_probs
        returns = vtrace.from_importance_weights(
            log_rhos=log_rhos,
            discounts=discounts * valid_mask,
            rewards=rewards * valid_mask + tf.stop_gradient(values) * (1 - valid_mask),
            values=values,
            bootstrap_value=output.value[-1],
            clip_rho_threshold=config.clip_rho_threshold,
            clip_pg_rho_threshold=config.clip_pg_rho_threshold,
            lambda_=config.vtrace_lambda,
        )
        entropy = self._distribution.entropy(logits)  # [T, B]
        # Section 4.2.
        level = timesteps.extras["level"][:-1] if "level" in timesteps.extras else None
        scale = self.network.value_head.scale(level)  # the unit of both losses; 1 without PopArt
        unclipped = returns.pg_advantages / scale * valid_mask
        advantages = self._clip_policy_moves(unclipped, log_rhos)
        policy_loss = -tf.reduce_sum(log_probs * advantages)
        value_loss = 0.5 * tf.reduce_sum(tf.square((returns.vs - values) / scale) * valid_mask)
        entropy_loss = -tf.reduce_sum(entropy * valid_mask)
        total = policy_loss + config.baseline_cost * value_loss + config.entropy_cost * entropy_loss

        num_steps = tf.maximum(tf.reduce_sum(valid_mask), 1.0)
        rhos = tf.exp(log_rhos)
        metrics = {
            "loss/total": total / num_steps,
            "loss/policy": policy_loss / num_steps,
            "loss/value": value_loss / num_steps,
            "policy/entropy": -entropy_loss / num_steps,
            "policy/clipped": tf.math.divide_no_nan(_sum_of_sizes(unclipped - advantages), _sum_of_sizes(unclipped)),
            "vtrace/rho_mean": tf.reduce_sum(rhos * valid_mask) / num_steps,
            "vtrace/rho_clipped": tf.reduce_sum(_as_float(rhos > config.clip_rho_threshold) * valid_mask) / num_steps,
            "value/mean": tf.reduce_sum(values * valid_mask) / num_steps,
        }
        for name, values_of_metric in self._distribution.metrics(logits).items():
            metrics[name] = tf.reduce_sum(values_of_metric * valid_mask) / num_steps
        priorities = tf.reduce_sum(tf.abs(returns.vs - values), axis=0)
        statistics = self.network.value_head.batch_statistics(returns.vs, valid_mask, level)
        if normalizer := self.network.normalizer:
            # Step T is step 0 of the next trajectory, and counts there.
            statistics = tf.concat([statistics, normalizer.batch_statistics(numbers_of(timesteps)[:-1])], axis=0)
        return LossOutput(total, priorities, metrics, statistics)

    def _clip_policy_moves(self, advantages: tf.Tensor, log_rhos: tf.Tensor) -> tf.Tensor:
        """The advantages [T, B], with zeros where `--policy_clip` stops the policy gradient.

        Deviation: no policy gradient for an action whose probability has already moved this far in the direction of its
        advantage (Schulman et al. 2017). Without it, samples that are used several times push the policy towards noise.
        """
        if self._config.learner.policy_clip <= 0:
            return advantages
        log_moves = log_rhos * tf.sign(advantages)
        return tf.where(log_moves < tf.math.log1p(self._config.learner.policy_clip), advantages, 0.0)

    def update_statistics(self, statistics: Any) -> None:
        """Updates PopArt's statistics of the returns, and those of the observations."""
        of_returns, of_observations = tf.split(statistics, self._statistics_sizes)
        if self._statistics_sizes[0]:
            self.network.value_head.update(of_returns)
        if self.network.normalizer:
            self.network.normalizer.update(of_observations)

    def exploration_epsilons(self, env_indices: Any, num_envs: int) -> Any:
        """Zeros: a stochastic policy explores by itself."""
        return np.zeros(len(env_indices), np.float32)

    def initial_priorities(self, timesteps: TimeStep, acted: ActOutput) -> Any:
        """None: a queue has no priorities."""

    def sequence_priorities(self, td_errors: Any, mask: Any) -> Any:
        """None: a queue has no priorities."""

    def on_learner_step(self, step: int) -> None:
        """Does nothing: there is no target network."""


def _as_float(condition: tf.Tensor) -> tf.Tensor:
    return tf.cast(condition, tf.float32)


def _sum_of_sizes(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.abs(tensor))
