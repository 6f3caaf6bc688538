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
from mlma.transport.listening import Listening, check_serving
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
    listening: Listening,
    token: str,
) -> Server:
    """Serves actors from now on. The learner's weights must be final: restored and broadcast."""
    inference = None
    if config.actor.inference == "learner":
        inference = InferenceServer(config, spec, make_agent(config, spec), metrics.refusals)
        metrics.add_gauges({"inference/batch": inference.batch_size})
    expected = handshake_request(config, layout, learner.weights)
    admission = ActorAdmission(config, expected, allreduce.rank, allreduce.size, seeds, inference, metrics, on_failure)
    server = Server(listening.server, token, admission, inference, admission.refuse, config.actor.num_actors)
    server.publish(learner.step, learner.weights.read())
    server.start()
    check_serving(listening.server, config.distributed.learner_host)
    if listening.gateway:
        listening.gateway.on_refused = lambda count: metrics.count_fault("connections_refused", count)
    return server
