"""One process of a run: reads the flags, imports one role and runs it. `python experiment.py --help` lists flags.

python experiment.py --level_name=PongNoFrameskip-v4                       local training: a learner and its actors
python experiment.py --job_name=learner --task=0 --learner_host=localhost:8001
python experiment.py --job_name=actor --task=3 --learner_host=localhost:8001
mpirun -np 2 python experiment.py --num_actors=2                           two learners with two actors each
python experiment.py --mode=test --logdir=logdir/catch --level_name=catch  evaluate a checkpoint
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import traceback
from typing import NoReturn

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until the role handles it, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from mlma.core.config import Config, parse_or_exit
from mlma.core.config.flags import HELP, print_mistake
from mlma.core.presets.overview import preset_help
from mlma.core.types import EnvSpec
from mlma.envs.failures import EnvironmentFailedError, SimulatorLostError
from mlma.envs.registry import level_help
from mlma.roles.preparation import begin, prepare, role_of
from mlma.utils.child_process import EXIT_ENVIRONMENT, EXIT_USAGE, setup_child_process
from mlma.utils.code_layout import install_agents_name
from mlma.utils.console_streams import install_forgiving_streams, print_text
from mlma.utils.tensorflow_setup import import_tensorflow


def main() -> int:
    """The exit code of the process."""
    install_forgiving_streams()
    setup_child_process()
    install_agents_name()
    given = parse_or_exit(sys.argv[1:])
    if given.environment.level_name == HELP:
        return print_text(level_help())
    if given.run.preset == HELP:
        return print_text(preset_help())
    try:
        config, spec = prepare(given)
        if role_of(config) == "learner":
            from mlma.roles.learners_console import launch_learners  # actors do without

            if (code := launch_learners(given, config)) is not None:
                return code
    except ValueError as mistake:  # wrong flags and files: one line
        print_mistake(mistake)
        return EXIT_USAGE
    _run(role_of(config), config, spec)


def _run(role: str, config: Config, spec: EnvSpec) -> NoReturn:
    """Runs the role and ends the process: the RPC server and client of TensorFlow never shut down by themselves."""
    begun = begin(role, config)
    # Only now: TensorFlow takes seconds to import, and reads the environment once. A sixth of that would be collections
    # of garbage, although modules stay; frozen, they are not searched later either.
    gc.disable()
    import_tensorflow()
    from agents import make_agent
    from mlma.transport.protocol import HandshakeRefusedError, LearnerLostError

    run = importlib.import_module(f"mlma.roles.{role}").run
    gc.freeze()
    gc.enable()
    try:
        code = run(config, spec, make_agent, *begun)
    except (LearnerLostError, HandshakeRefusedError) as problem:
        print(problem, file=sys.stderr)
        code = 1
    except ValueError as mistake:  # before the role began to work: mlma/utils/failure.py
        print_mistake(mistake)
        code = EXIT_USAGE
    except (EnvironmentFailedError, SimulatorLostError) as failure:
        traceback.print_exc()
        code = EXIT_ENVIRONMENT
        if not failure.steps:  # it never worked: a restart does not help
            print_mistake(ValueError(failure.line))
            code = EXIT_USAGE
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
