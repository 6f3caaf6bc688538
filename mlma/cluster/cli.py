"""Runs one command of the frontend and returns its exit code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from mlma.cluster.context import Context, check_level, make_context
from mlma.cluster.frontend_lock import RunIsLockedError, frontend_lock
from mlma.cluster.options import Invocation
from mlma.cluster.run_list import remember_logdir
from mlma.core.config.flags import HELP, print_mistake
from mlma.core.presets.overview import preset_help
from mlma.utils.child_process import EXIT_USAGE

COMMAND_MODULES = "mlma.cluster.commands"
FUNCTIONS = {  # command -> module and function, where the command is not the name of both
    "dry-run": ("dry_run", "dry_run"),
    "exec": ("execute", "execute"),
    "list": ("list_runs", "list_runs"),
    "restart": ("up", "restart"),
    "scale": ("up", "scale"),
    "screens": ("dashboard", "dashboard"),
}


def run_command(invocation: Invocation) -> int:
    """Exit code: 0 for success, 1 if a host or a worker failed, 2 for an error in flags or CSV."""
    if invocation.config.environment.level_name == HELP:  # whatever the command is: nothing can train on that
        from mlma.envs.registry import level_help  # which imports the environments

        print(level_help())
        return 0
    if invocation.config.run.preset == HELP:
        print(preset_help())
        return 0
    if invocation.command == "list":
        return _function("list")(invocation)
    try:
        with frontend_lock(invocation.command, invocation.config.run.logdir):
            context = make_context(invocation)
            if invocation.command in ("up", "dry-run"):
                check_level(context.plan)
            try:
                return _run(invocation.command, context)
            finally:
                context.hosts.close()
    except RunIsLockedError as error:
        print(error, file=sys.stderr)
        return 1
    except ValueError as error:
        print_mistake(error)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted; `status` shows the state of the run; every command can be repeated", file=sys.stderr)
        return 130


def _run(command: str, context: Context) -> int:
    if command == "up":
        remember_logdir(context.invocation.config.run.logdir)
        if context.options.sync:
            _function("sync")(context)  # hosts on which it fails count as missing
    return int(_function(command)(context))


def _function(command: str) -> Callable[..., int]:
    """What carries out a command; imported only now, since some commands import much."""
    module, name = FUNCTIONS.get(command, (command, command))
    function: Callable[..., int] = getattr(importlib.import_module(f"{COMMAND_MODULES}.{module}"), name)
    return function
