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

from mlma import config as flags
from mlma import envs, files, local, mpirun, presets, quiet


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a run is watched through files and pipes, too
    local.die_with_parent()
    given = flags.parse_or_exit(sys.argv[1:])
    if given.level_name == envs.HELP:
        print(envs.help_text())
        return 0
    try:
        spec = envs.spec_of(given)
        config = presets.resolve(given, spec)
        role_name = "test" if config.mode == "test" else "act" if config.job_name == "actor" and config.task >= 0 else "learn"
        if role_name == "learn":
            files.check_writable(Path(config.logdir), "--logdir")
            if config.num_learners > 1 and config.task < 0 and not mpirun.started_by_mpirun():
                return mpirun.supervise(given, print)
    except ValueError as problem:
        return mistake(problem)
    if role_name == "act":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # actors leave GPUs to learners
    # Only now, since TensorFlow takes seconds to import and reads the environment once.
    quiet.import_tensorflow()
    import agents
    from mlma import roles, training, transport

    try:
        role = {"act": roles.act, "test": roles.test, "learn": training.learn}[role_name]
        code = role(config, spec, agents.make)
        sys.stdout.flush()
        os._exit(code)  # the runtime's server and client have no end of their own
    except ValueError as problem:
        return mistake(problem)
    except (transport.LearnerLost, transport.HandshakeRefused) as problem:
        print(problem, file=sys.stderr)
        return 1


def mistake(problem: ValueError) -> int:
    """Wrong flags and files: one line and exit code 2."""
    print(problem, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
