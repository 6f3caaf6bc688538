"""Plays whole games under evaluation settings: no return ends at a life loss, up to 30 no-ops, rewards as they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mlma import envs
from mlma.config import Config
from mlma.types import Agent

SEED_OFFSET = 1_000_003  # other games than those of training


def evaluate(config: Config, agent: Agent) -> Iterator[tuple[float, int]]:
    """(return, frames) of `test_num_episodes` episodes: the first of each environment, so that short ones are not favoured."""
    env = envs.make(config.level_name, config.test_num_episodes, config.seed + SEED_OFFSET, config, evaluation=True)
    act = tf.function(agent.act)
    timestep, state = env.reset(), agent.initial_state(env.num_envs)
    done = np.zeros(env.num_envs, bool)
    while not done.all():
        output, state = act(timestep, state)
        timestep = env.step(output.action.numpy())
        for i in np.flatnonzero(~np.isnan(timestep.episode_return) & ~done):
            yield float(timestep.episode_return[i]), int(timestep.episode_frames[i])
        done |= ~np.isnan(timestep.episode_return)
    env.close()
