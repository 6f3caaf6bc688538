"""What a role needs before TensorFlow is imported: resolved flags, an address, enough memory, a folder of its own.

Everything that is wrong here is a mistake of the user, answered within seconds in one line.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from mlma.core.config import Config
from mlma.core.machine_fit import check_fits_machine
from mlma.core.presets.resolve import resolve
from mlma.core.types import EnvSpec
from mlma.envs.registry import env_spec
from mlma.envs.trial import try_levels
from mlma.envs.vector import temp_folder
from mlma.transport.addresses import FROM_PARENT, Address, is_on_this_machine, parse_address
from mlma.transport.auth import read_token
from mlma.utils.atomic_file import check_writable
from mlma.utils.child_process import PARENT_PID_ENV, available_cores, started_by_mpirun
from mlma.utils.own_files import check_own_folder

# Niceness of actors that share a host with their learner, so the learner gets CPU time first. Otherwise actors fill the
# queue and then idle during the phases of a learner step that only one core can compute.
ACTOR_NICENESS = 10


def role_of(config: Config) -> str:
    """learner, actor or evaluator."""
    if config.run.mode == "test":
        return "evaluator"
    return "actor" if config.run.job_name == "actor" and config.run.task >= 0 else "learner"


def begin(role: str, config: Config) -> list[Any]:
    """Does what need not wait for TensorFlow's import; returns what the role's `run` takes besides the usual."""
    temp_folder.use_for_this_process()
    if role == "learner":
        from mlma.roles.local_actors import start_local_actors  # actors do without

        return [start_local_actors(config)]
    if role == "actor":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # leaves GPUs to learners
        _lower_priority_beside_learner(config)
    return []


def _lower_priority_beside_learner(config: Config) -> None:
    """Makes an actor nicer than a learner on this machine, in all its threads."""
    if config.distributed.learner_host != FROM_PARENT and not is_on_this_machine(_address(config)):
        return
    niceness = os.nice(ACTOR_NICENESS)
    for thread in os.listdir("/proc/self/task"):  # numpy has started some
        with contextlib.suppress(ProcessLookupError):  # it has ended in the meantime
            os.setpriority(os.PRIO_PROCESS, int(thread), niceness)


def _address(config: Config) -> Address:
    distributed = config.distributed
    return parse_address(distributed.learner_host, read_token(distributed.token_file), distributed.insecure_plaintext)


def prepare(given: Config) -> tuple[Config, EnvSpec]:
    """The resolved configuration and the spec of its levels; ValueError in one line.

    A learner has its logdir for itself from now on, unless this process only launches learners.
    """
    role = role_of(given)
    if role == "learner" and given.run.task < 0 and not started_by_mpirun():  # those are tried by their launcher
        try_levels(given.environment)
    elif role == "actor" and PARENT_PID_ENV not in os.environ:  # else its learner has tried them
        try_levels(given.environment, without_workers=True)
    spec = env_spec(given.environment)
    config = resolve(given, spec, available_cores())
    distributed = config.distributed
    host, from_parent = distributed.learner_host, role == "actor" and PARENT_PID_ENV in os.environ
    if role != "evaluator" and host not in ("auto", FROM_PARENT if from_parent else "auto"):  # again when it is used
        _address(config)
    check_fits_machine(config, spec, role)
    if role == "evaluator":
        if PARENT_PID_ENV not in os.environ:  # else a learner started this, and has tried its levels
            try_levels(given.environment, evaluation=True)
        logdir = Path(config.run.logdir)
        check_own_folder(logdir, f"--logdir={logdir}")
        if logdir.exists():
            check_writable(logdir, "--logdir")
    elif role == "learner":
        from mlma.distributed.mpi_launcher import must_launch  # actors do without
        from mlma.roles.run_folder import check_run_folder, claim_run_folder

        if must_launch(config):
            check_run_folder(config)
        else:
            claim_run_folder(config)
    return config, spec
