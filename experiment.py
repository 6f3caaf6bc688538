"""One process of a run: read the flags, pick the role, wire the parts, run. `python experiment.py --help` lists the flags.

    python experiment.py --level_name=PongNoFrameskip-v4                       local training: a learner and its actors
    python experiment.py --job_name=learner --task=0 --learner_host=localhost:8001
    python experiment.py --job_name=actor --task=3 --learner_host=localhost:8001
    python experiment.py --mode=test --logdir=/tmp/agent                       play with a checkpoint
"""

from __future__ import annotations

import os
import sys

from mlma import config as flags
from mlma import local, quiet


def main() -> int:
    local.die_with_parent()
    config = flags.parse_or_exit(sys.argv[1:])
    if config.job_name == "actor" and config.task >= 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # actors leave GPUs to learners
    # Only now, since TensorFlow takes seconds to import and reads the environment once.
    quiet.import_tensorflow()
    import agents
    from mlma import roles, transport

    role = roles.learn
    if config.mode == "test":
        role = roles.test
    elif config.job_name == "actor" and config.task >= 0:
        role = roles.act
    try:
        code = role(config, agents.make)
        sys.stdout.flush()
        os._exit(code)  # the runtime's server and client have no end of their own
    except (ValueError, transport.LearnerLost, transport.HandshakeRefused) as problem:
        print(problem, file=sys.stderr)
        return 2 if isinstance(problem, ValueError) else 1


if __name__ == "__main__":
    sys.exit(main())
