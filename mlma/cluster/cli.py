"""Runs one command of the frontend and returns its exit code."""

from __future__ import annotations

import sys

from mlma.cluster.commands.down import down
from mlma.cluster.commands.dry_run import dry_run
from mlma.cluster.commands.logs import logs
from mlma.cluster.commands.up import restart, scale, up
from mlma.cluster.context import Context, check_level, make_context
from mlma.cluster.frontend_lock import RunIsLockedError, frontend_lock
from mlma.cluster.options import Invocation
from mlma.cluster.run_list import remember_logdir
from mlma.core.config.flags import HELP, print_mistake
from mlma.core.presets.overview import preset_help
from mlma.utils.child_process import EXIT_USAGE


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
        from mlma.cluster.commands.list_runs import list_runs

        list_runs(invocation)
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
    match command:
        case "up":
            if context.options.sync:
                from mlma.cluster.commands.sync import sync

                sync(context)  # hosts on which it fails count as missing
            remember_logdir(context.invocation.config.run.logdir)
            return up(context)
        case "check":
            from mlma.cluster.commands.check import check

            return check(context)
        case "status":
            from mlma.cluster.commands.status import status

            return status(context)
        case "screens":
            from mlma.cluster.commands.dashboard import dashboard

            return dashboard(context)
        case "exec":
            from mlma.cluster.commands.execute import execute

            return execute(context)
        case "fetch":
            from mlma.cluster.commands.fetch import fetch

            return fetch(context)
        case "logs":
            return logs(context)
        case "restart":
            return restart(context)
        case "scale":
            return scale(context)
        case "down":
            return down(context)
        case _:
            return dry_run(context)
