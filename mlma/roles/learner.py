"""The learner role: devices, connection to the other learners, and the address for actors; then a training session."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from mlma.core.config import Config
from mlma.core.types import EnvSpec, MakeAgent
from mlma.distributed.allreduce import Allreduce, connect_learners
from mlma.distributed.devices import use_own_gpu
from mlma.distributed.world import World
from mlma.monitoring.heartbeat import Heartbeat
from mlma.roles.run_folder import socket_folder
from mlma.roles.training_session import run_session
from mlma.transport.auth import check_address, read_token
from mlma.utils.tensorflow_setup import set_tensorflow_threads


def run(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    """Trains: alone or as one of several learners, with actors of its own or remote ones. `config` is resolved."""
    heartbeat = Heartbeat(config.distributed.heartbeat_folder, f"learner-{World.from_environment().rank}")
    if use_own_gpu():
        config = config.replace(gradient_shards=1)
    set_tensorflow_threads(config.learner.learner_threads, config.learner.gradient_shards)
    token = read_token(config.distributed.token_file)
    allreduce = connect_learners(config.distributed)
    with _learner_address(config.distributed.learner_host, allreduce) as address:
        config = config.replace(learner_host=address)
        code = run_session(config, spec, make_agent, allreduce, check_address(address, token), token, heartbeat)
        heartbeat.close()
        return code


@contextlib.contextmanager
def _learner_address(learner_host: str, allreduce: Allreduce) -> Iterator[str]:
    """`learner_host`; for auto, a socket that only this user can open, removed at the end."""
    with contextlib.ExitStack() as stack:
        if learner_host == "auto":
            learner_host = f"unix:{stack.enter_context(socket_folder())}/learner"
        yield assign_port(learner_host, allreduce)


def assign_port(address: str, allreduce: Allreduce) -> str:
    """Learners of one host that were given the same port take it and the following ones."""
    local_rank = World.from_environment().local_rank
    own = f"{os.uname().nodename} {address}"
    same = allreduce.gather(own.encode()).count(own.encode())
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + local_rank}" if same > 1 and port.isdigit() else address
