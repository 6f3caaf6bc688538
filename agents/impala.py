"""IMPALA: Espeholt et al. 2018 (arXiv 1802.01561). How it acts and what it minimises; nothing else.

Losses are SUMMED over time and batch, as in the paper's code. Not here: V-trace itself (agents/ops/vtrace.py), networks
(agents/networks/zoo.py), the loops (mlma/acting/environment_loop.py, mlma/learning/learner.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from agents.action_selection import sample_from_logits
from agents.networks.zoo import make_network
from agents.ops.vtrace import from_logits
from agents.reward_clipping import clip_rewards
from mlma.core.config import Config
from mlma.core.types import ActionNoise, ActOutput, EnvSpec, LossOutput, ReplayWindowSpec, Sample, TimeStep


class Impala:
    """See mlma.core.types.Agent."""

    replay_windows: ReplayWindowSpec | None = None
    batch_loss = "sum"

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        self._config = config
        self.target_variables: list[Any] = []
        self.network = make_network(
            config.run.agent_name,
            spec,
            config.learner.num_stacked_frames,
            popart=config.learner.popart,
            num_shards=config.learner.gradient_shards,
        )
        self.num_statistics = 3 * max(1, len(spec.actions_by_level)) if config.learner.popart else 0

    def initial_state(self, batch_size: int) -> Any:
        return self.network.initial_state(batch_size)

    def act(self, timestep: TimeStep, agent_state: Any, noise: ActionNoise) -> tuple[ActOutput, Any]:
        """[E, ...] -> an action for each environment, drawn from the policy."""
        one_step = tf.nest.map_structure(lambda x: None if x is None else x[tf.newaxis], timestep)  # [1, E, ...]
        output, agent_state = self.network(one_step, agent_state)
        logits = output.logits[0]  # [E, A]
        return ActOutput(sample_from_logits(logits, noise.uniform), logits, output.value[0]), agent_state

    def loss(self, sample: Sample) -> LossOutput:
        config, trajectory = self._config, sample.trajectory
        timesteps, acted = trajectory.timesteps, trajectory.act_outputs
        output, _ = self.network(timesteps, trajectory.agent_state)  # [T+1, B]

        # Action t leads from x_t to x_{t+1}, and to the reward that arrived there.
        logits, values = output.logits[:-1], output.value[:-1]  # [T, B, A], [T, B]
        actions, behaviour_logits = acted.action[:-1], acted.logits[:-1]
        discounts = config.learner.discounting * timesteps.discount[1:]
        rewards = clip_rewards(timesteps.reward, config.learner.reward_clipping, timesteps.extras.get("level"))[1:]
        # The step into a new game is no transition: with discount 0 and the value as its reward, its delta and advantage are
        # 0 and its target is V(x), from which a truncated game bootstraps.
        real = tf.cast(tf.logical_not(timesteps.is_first[1:]), tf.float32)  # [T, B]
        returns = from_logits(
            behaviour_policy_logits=behaviour_logits,
            target_policy_logits=logits,
            actions=actions,
            discounts=discounts * real,
            rewards=rewards * real + tf.stop_gradient(values) * (1 - real),
            values=values,
            bootstrap_value=output.value[-1],
            clip_rho_threshold=config.learner.clip_rho_threshold,
            clip_pg_rho_threshold=config.learner.clip_pg_rho_threshold,
            lambda_=config.learner.vtrace_lambda,
        )
        log_pi = tf.nn.log_softmax(logits)
        entropy = -tf.reduce_sum(tf.exp(log_pi) * log_pi, axis=-1)  # [T, B]
        # Section 4.2: policy gradient, value loss and entropy bonus.
        level = timesteps.extras["level"][:-1] if "level" in timesteps.extras else None
        unit = self.network.value_head.scale(level)  # 1 without PopArt, in units of which both losses are
        advantages = returns.pg_advantages / unit * real
        if config.learner.policy_clip > 0:
            # Deviation: an action whose probability has moved so far already, in the direction of its advantage, moves no
            # further (Schulman et al. 2017), without which a sample that is used again drives the policy about.
            further = returns.log_rhos * tf.sign(advantages)
            advantages = tf.where(further < tf.math.log1p(config.learner.policy_clip), advantages, 0.0)
        policy_loss = -tf.reduce_sum(returns.target_action_log_probs * advantages)
        value_loss = 0.5 * tf.reduce_sum(tf.square((returns.vs - values) / unit) * real)
        entropy_loss = -tf.reduce_sum(entropy * real)
        total = policy_loss + config.learner.baseline_cost * value_loss + config.learner.entropy_cost * entropy_loss

        steps = tf.maximum(tf.reduce_sum(real), 1.0)
        rhos = tf.exp(returns.log_rhos)
        metrics = {
            "loss/total": total / steps,
            "loss/policy": policy_loss / steps,
            "loss/value": value_loss / steps,
            "policy/entropy": -entropy_loss / steps,
            "vtrace/rho_mean": tf.reduce_sum(rhos * real) / steps,
            "vtrace/rho_clipped": tf.reduce_sum(tf.cast(rhos > config.learner.clip_rho_threshold, tf.float32) * real)
            / steps,
            "value/mean": tf.reduce_sum(values * real) / steps,
        }
        if logits.shape[-1] == 2:
            metrics["policy/p_action_1"] = tf.reduce_sum(tf.exp(log_pi[..., 1]) * real) / steps
        priorities = tf.reduce_sum(tf.abs(returns.vs - values), axis=0)
        return LossOutput(total, priorities, metrics, self.network.value_head.batch_statistics(returns.vs, real, level))

    def update_statistics(self, statistics: Any) -> None:
        self.network.value_head.update(statistics)

    def exploration_epsilons(self, env_indices: Any, num_envs: int) -> Any:
        """Its policy explores by itself."""
        return np.zeros(len(env_indices), np.float32)

    def initial_priorities(self, timesteps: TimeStep, acted: ActOutput) -> Any:
        """A queue needs none."""

    def sequence_priorities(self, td_errors: Any, mask: Any) -> Any:
        """Not used: a queue has no priorities."""

    def on_learner_step(self, step: int) -> None:
        pass
