"""The learner role: connects to the other learners, opens the address for actors, runs a session."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace

from mlma.core.config.config import Config
from mlma.core.types import EnvSpec, MakeAgent
from mlma.distributed.allreduce import Allreduce, connect_learners
from mlma.distributed.devices import use_own_gpu
from mlma.distributed.world import World
from mlma.monitoring.heartbeat import Heartbeat
from mlma.roles.training_session import run_session
from mlma.transport.auth import check_address, read_token
from mlma.utils.tensorflow_setup import set_tensorflow_threads


def run_learner(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    """A learner; in local training (task -1) with its own actors on a socket that only this user can open."""
    pulse = Heartbeat(config.health_folder, f"learner-{World.here().rank}")
    if use_own_gpu():
        config = replace(config, learner_parts=1)
    set_tensorflow_threads(config.learner_threads, config.learner_parts)
    token = read_token(config.token_file)
    allreduce = connect_learners(config)
    sockets = None
    if config.learner_host == "auto":
        sockets = tempfile.mkdtemp(prefix="mlma-")  # mode 0700
        config = replace(config, learner_host=f"unix:{sockets}/learner")
    config = replace(config, learner_host=assign_port(config.learner_host, allreduce))
    try:
        code = run_session(config, spec, make_agent, allreduce, check_address(config.learner_host, token), token, pulse)
        pulse.end()
        return code
    finally:
        if sockets:
            shutil.rmtree(sockets, ignore_errors=True)


def assign_port(address: str, allreduce: Allreduce) -> str:
    """Learners of one host that were given one port take it and those that follow."""
    local_rank = World.here().local_rank
    mine = f"{os.uname().nodename} {address}"
    same = allreduce.gather(mine.encode()).count(mine.encode())
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + local_rank}" if same > 1 and port.isdigit() else address
