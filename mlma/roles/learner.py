"""The learner role: devices, connection to the other learners, and the address for actors; then a training session."""

from __future__ import annotations

import os

from mlma.core.config import Config
from mlma.core.precision import with_precision
from mlma.core.types import EnvSpec, MakeAgent
from mlma.distributed.allreduce import Allreduce, connect_learners
from mlma.distributed.devices import use_own_gpu
from mlma.distributed.world import World
from mlma.monitoring.heartbeat import Heartbeat
from mlma.roles.local_actors import LocalActors
from mlma.roles.training_session import run_session
from mlma.transport.addresses import parse_address
from mlma.transport.auth import read_token
from mlma.transport.listening import listen
from mlma.utils.child_process import HEARTBEAT_ENV
from mlma.utils.tensorflow_setup import set_tensorflow_threads


def run(config: Config, spec: EnvSpec, make_agent: MakeAgent, actors: LocalActors | None) -> int:
    """Trains: alone or as one of several learners, with actors of its own or remote ones. `config` is resolved."""
    folder = config.distributed.heartbeat_folder or os.environ.get(HEARTBEAT_ENV, "")
    heartbeat = Heartbeat(folder, f"learner-{World.from_environment().rank}")
    if use_own_gpu():
        config = config.replace(gradient_shards=1)
    set_tensorflow_threads(config.learner.learner_threads, config.learner.gradient_shards)
    make_agent = with_precision(make_agent, config)
    distributed = config.distributed
    token = read_token(distributed.token_file)
    allreduce = connect_learners(distributed)
    heartbeat.connected()
    config = config.replace(learner_host=assign_port(distributed.learner_host, allreduce))
    given = config.distributed.learner_host
    address = None if given == "auto" else parse_address(given, token, distributed.insecure_plaintext)
    with listen(address, token) as listening:
        code = run_session(config, spec, make_agent, allreduce, listening, token, heartbeat, actors)
        heartbeat.close()
        return code


def assign_port(address: str, allreduce: Allreduce) -> str:
    """Learners of one host that were given the same port take it and the following ones."""
    local_rank = World.from_environment().local_rank
    own = f"{os.uname().nodename} {address}"
    same = allreduce.gather(own.encode()).count(own.encode())
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + local_rank}" if same > 1 and port.isascii() and port.isdigit() else address
