"""The data side of a learner: the server for actors, the receiver, and the queue or replay that they fill."""

from __future__ import annotations

import math
from typing import NamedTuple

from mlma.acting.inference_server import InferenceServer
from mlma.core.catalog import ALGORITHMS
from mlma.core.config import Config
from mlma.core.record_layout import trajectory_layout
from mlma.core.types import Agent, EnvSpec, MakeAgent
from mlma.distributed.allreduce import Allreduce
from mlma.distributed.world import World
from mlma.learning.admission import ActorAdmission
from mlma.learning.learner import Learner
from mlma.learning.run_state import SeedAllocator
from mlma.learning.trajectory_receiver import TrajectoryReceiver
from mlma.monitoring.metrics import Metrics
from mlma.replay.base import TrajectoryBuffer
from mlma.replay.factory import make_buffer
from mlma.replay.snapshot import ReplaySnapshot
from mlma.roles.stop_signal import StopSignal
from mlma.transport.handshake import handshake_request
from mlma.transport.server import Server

GREEDY_SHARE = 0.75  # environments from this share of the epsilon ladder on count as greedy


class LearnerData(NamedTuple):
    """Everything that trajectories pass through on their way to the learner."""

    buffer: TrajectoryBuffer
    snapshot: ReplaySnapshot
    server: Server
    receiver: TrajectoryReceiver


def serve_actors(
    config: Config,
    spec: EnvSpec,
    make_agent: MakeAgent,
    agent: Agent,
    learner: Learner,
    allreduce: Allreduce,
    seeds: SeedAllocator,
    metrics: Metrics,
    stop: StopSignal,
    address: str,
    token: str,
) -> LearnerData:
    """Starts to serve actors at `address`. The learner's weights must be final: restored and broadcast."""
    layout = trajectory_layout(spec, agent, config.learner.unroll_length)
    buffer, snapshot = make_buffer(config, agent, layout, allreduce.rank, World.from_environment().local_size)
    inference = None
    if config.actor.inference == "learner":
        inference = InferenceServer(config, spec, make_agent(config, spec))
        metrics.add_gauges({"inference/batch": inference.batch_size})
    expected = handshake_request(config, layout, learner.weights)
    admission = ActorAdmission(config, expected, allreduce.rank, allreduce.size, seeds, inference, metrics, stop.fail)
    server = Server(address, token, admission, inference)
    server.publish(learner.step, learner.weights.read())
    server.start()
    num_envs = config.actor.num_actors * config.actor.envs_per_actor  # of this learner
    has_ladder = ALGORITHMS[config.run.algorithm].has_epsilon_ladder
    receiver = TrajectoryReceiver(
        server.receive,
        buffer.insert,
        layout,
        spec,
        metrics,
        stop.fail,
        first_greedy_env=GREEDY_SHARE * allreduce.size * num_envs if has_ladder else math.inf,
        lockstep_round_size=num_envs if config.run.deterministic else 0,
    )
    return LearnerData(buffer, snapshot, server, receiver)
