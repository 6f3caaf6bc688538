"""The server of a learner: admits actors, takes their trajectories, and hands out weights or actions."""

from __future__ import annotations

from collections.abc import Callable

from mlma.acting.inference_server import InferenceServer
from mlma.core.config import Config
from mlma.core.record_layout import RecordLayout
from mlma.core.types import EnvSpec, MakeAgent
from mlma.distributed.allreduce import Allreduce
from mlma.learning.admission import ActorAdmission
from mlma.learning.learner import Learner
from mlma.learning.run_state import SeedAllocator
from mlma.monitoring.metrics import Metrics
from mlma.transport.handshake import handshake_request
from mlma.transport.server import Server


def start_server(
    config: Config,
    spec: EnvSpec,
    make_agent: MakeAgent,
    layout: RecordLayout,
    learner: Learner,
    allreduce: Allreduce,
    seeds: SeedAllocator,
    metrics: Metrics,
    on_failure: Callable[[BaseException], None],
    address: str,
    token: str,
) -> Server:
    """Serves actors at `address` from now on. The learner's weights must be final: restored and broadcast."""
    inference = None
    if config.actor.inference == "learner":
        inference = InferenceServer(config, spec, make_agent(config, spec), metrics.refusals)
        metrics.add_gauges({"inference/batch": inference.batch_size})
    expected = handshake_request(config, layout, learner.weights)
    admission = ActorAdmission(config, expected, allreduce.rank, allreduce.size, seeds, inference, metrics, on_failure)
    server = Server(address, token, admission, inference, admission.refuse)
    server.publish(learner.step, learner.weights.read())
    server.start()
    return server
