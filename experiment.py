"""One process of a run: read the flags, pick the role, wire the parts, run. `python experiment.py --help` lists the flags.

python experiment.py --level_name=PongNoFrameskip-v4                       local training: a learner and its actors
python experiment.py --job_name=learner --task=0 --learner_host=localhost:8001
python experiment.py --job_name=actor --task=3 --learner_host=localhost:8001
mpirun -np 2 python experiment.py --num_actors=2                           two learners with two actors each
python experiment.py --mode=test --logdir=/tmp/agent                       play with a checkpoint
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from mlma.core.config.config import parse_or_exit
from mlma.core.presets.resolve import resolve
from mlma.distributed.mpi_launcher import supervise_learners
from mlma.distributed.world import started_by_mpirun
from mlma.envs.registry import HELP, env_spec, level_help
from mlma.utils.atomic_file import check_writable
from mlma.utils.child_process import setup_child_process
from mlma.utils.tensorflow_setup import import_tensorflow


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a run is watched through files and pipes, too
    setup_child_process()
    given = parse_or_exit(sys.argv[1:])
    if given.level_name == HELP:
        print(level_help())
        return 0
    try:
        spec = env_spec(given)
        config = resolve(given, spec)
        role_name = "test" if config.mode == "test" else "act" if config.job_name == "actor" and config.task >= 0 else "learn"
        if role_name == "learn":
            check_writable(Path(config.logdir), "--logdir")
            if config.num_learners > 1 and config.task < 0 and not started_by_mpirun():
                return supervise_learners(given, print)
    except ValueError as problem:
        return mistake(problem)
    if role_name == "act":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # actors leave GPUs to learners
    # Only now, since TensorFlow takes seconds to import and reads the environment once.
    import_tensorflow()
    from agents import make_agent
    from mlma.roles.actor import run_actor
    from mlma.roles.evaluator import run_evaluation
    from mlma.roles.learner import run_learner
    from mlma.transport.protocol import HandshakeRefusedError, LearnerLostError

    try:
        role = {"act": run_actor, "test": run_evaluation, "learn": run_learner}[role_name]
        code = role(config, spec, make_agent)
        sys.stdout.flush()
        os._exit(code)  # the runtime's server and client have no end of their own
    except ValueError as problem:
        return mistake(problem)
    except (LearnerLostError, HandshakeRefusedError) as problem:
        print(problem, file=sys.stderr)
        return 1


def mistake(problem: ValueError) -> int:
    """Wrong flags and files: one line and exit code 2."""
    print(problem, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
