"""The data of a learner: the queue or replay, and the receiver that fills it with the trajectories of actors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from mlma.core.config import Config
from mlma.core.own_code import find_algorithm
from mlma.core.record_layout import RecordLayout
from mlma.core.types import Agent, EnvSpec
from mlma.distributed.allreduce import Allreduce
from mlma.distributed.world import World
from mlma.envs.registry import level_names
from mlma.learning.trajectory_receiver import TrajectoryReceiver
from mlma.monitoring.metrics import Metrics
from mlma.replay.base import TrajectoryBuffer
from mlma.replay.factory import make_buffer
from mlma.replay.snapshot import ReplaySnapshot
from mlma.transport.server import Server

GREEDY_SHARE = 0.75  # environments from this share of the epsilon ladder on count as greedy


class LearnerData(NamedTuple):
    """What trajectories pass through on their way to the learner."""

    server: Server
    receiver: TrajectoryReceiver
    buffer: TrajectoryBuffer
    snapshot: ReplaySnapshot

    def close(self, num_remote_actors: int, training_is_over: bool) -> None:
        """Finishes the snapshot and lets waiting actors go. If training is over, stays until the remote ones know."""
        self.snapshot.wait()
        self.buffer.close()
        self.server.shutdown(num_remote_actors, training_is_over=training_is_over)


def make_data_buffer(
    config: Config, agent: Agent, layout: RecordLayout, allreduce: Allreduce
) -> tuple[TrajectoryBuffer, ReplaySnapshot]:
    """The queue or replay of this rank, and its snapshot."""
    return make_buffer(config, agent, layout, allreduce.rank, World.from_environment().local_size)


def start_receiver(
    config: Config,
    spec: EnvSpec,
    layout: RecordLayout,
    allreduce: Allreduce,
    metrics: Metrics,
    server: Server,
    buffer: TrajectoryBuffer,
    on_failure: Callable[[BaseException], None],
    latest_version: Callable[[], float],
) -> TrajectoryReceiver:
    """Moves trajectories from the server to the buffer from now on. `latest_version` is that of the weights."""
    num_envs = config.actor.num_actors * config.actor.envs_per_actor  # of this learner
    has_ladder = find_algorithm(config.run.algorithm).has_epsilon_ladder
    return TrajectoryReceiver(
        server.receive,
        buffer.insert,
        layout,
        spec,
        metrics,
        on_failure,
        first_greedy_env=GREEDY_SHARE * allreduce.size * num_envs if has_ladder else math.inf,
        lockstep_round_size=num_envs if config.run.deterministic else 0,
        latest_version=latest_version,
        num_actors=config.actor.num_actors,
        level_names=level_names(config.environment.level_name),
    )
