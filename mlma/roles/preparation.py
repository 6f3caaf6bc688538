"""What a role needs before TensorFlow is imported: resolved flags, an address, enough memory, a folder of its own.

Everything that is wrong here is a mistake of the user, answered within seconds in one line.
"""

from __future__ import annotations

import os
from pathlib import Path

from mlma.core.config import Config
from mlma.core.machine_fit import check_fits_machine
from mlma.core.presets.resolve import resolve
from mlma.core.types import EnvSpec
from mlma.envs.registry import env_spec
from mlma.envs.trial import try_levels
from mlma.transport.addresses import parse_address
from mlma.transport.auth import read_token
from mlma.utils.atomic_file import check_writable
from mlma.utils.child_process import PARENT_PID_ENV, available_cores, started_by_mpirun
from mlma.utils.own_files import check_own_folder


def role_of(config: Config) -> str:
    """learner, actor or evaluator."""
    if config.run.mode == "test":
        return "evaluator"
    return "actor" if config.run.job_name == "actor" and config.run.task >= 0 else "learner"


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
    if role != "evaluator" and distributed.learner_host != "auto":  # again later, when it is used
        parse_address(distributed.learner_host, read_token(distributed.token_file), distributed.insecure_plaintext)
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
