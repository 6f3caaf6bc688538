"""Verb -> what it does, for the entry point; and `dry-run`, which only prints."""

from __future__ import annotations

import sys

from mlma.cluster.commands.down import down
from mlma.cluster.commands.dry_run import dry_run
from mlma.cluster.commands.logs import logs
from mlma.cluster.commands.up import restart, scale, up
from mlma.cluster.context import Context, make_context
from mlma.cluster.options import Invocation


def run_command(call: Invocation) -> int:
    """The exit code: 0 if all is as asked for, 1 if a host or a worker is not, 2 for a mistake of the caller."""
    try:
        context = make_context(call)
        if call.verb in ("up", "dry-run"):
            check_level(context)
        try:
            return _run(call.verb, context)
        finally:
            context.hosts.close()
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; `status` shows how far it came, and each verb may be called again", file=sys.stderr)
        return 130


def _run(verb: str, context: Context) -> int:
    match verb:
        case "up":
            if context.options.sync:
                from mlma.cluster.commands.sync import sync

                if sync(context):
                    return 1
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


def check_level(context: Context) -> None:
    """ValueError for what experiment.py would refuse on every host: levels and networks that do not exist or do not fit."""
    try:
        from mlma.core.presets.resolve import resolve
        from mlma.envs.registry import env_spec
    except ImportError:
        return  # this machine may be without the environments; then the hosts tell
    resolve(context.plan.config, env_spec(context.plan.config.environment), cores=1)
