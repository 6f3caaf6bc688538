"""Verb -> what it does, for the entry point; and `dry-run`, which only prints."""

from __future__ import annotations

import sys

from mlma.cluster import context as contexts
from mlma.cluster import down, logs, up
from mlma.cluster.context import Context, count, sizes
from mlma.cluster.options import Call
from mlma.cluster.plan import show


def run(call: Call) -> int:
    """The exit code: 0 if all is as asked for, 1 if a host or a worker is not, 2 for a mistake of the caller."""
    try:
        context = contexts.make(call)
        if call.verb in ("up", "dry-run"):
            level_exists(context)
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
                from mlma.cluster import sync

                if sync.sync(context):
                    return 1
            return up.up(context)
        case "check":
            from mlma.cluster import check

            return check.check(context)
        case "status":
            from mlma.cluster import status

            return status.status(context)
        case "screens":
            from mlma.cluster import screens

            return screens.screens(context)
        case "logs":
            return logs.logs(context)
        case "restart":
            return up.restart(context)
        case "scale":
            return up.scale(context)
        case "down":
            return down.down(context)
        case _:
            return dry_run(context)


def level_exists(context: Context) -> None:
    """ValueError for what experiment.py would refuse on every host: levels and networks that do not exist or do not fit."""
    try:
        from mlma import envs, presets
    except ImportError:
        return  # this machine may be without the environments; then the hosts tell
    presets.resolve(context.plan.config, envs.spec_of(context.plan.config))


def dry_run(context: Context) -> int:
    plan = context.plan
    for key, host in plan.hosts.items():
        where = "this machine" if host.local else f"{host.user}@{host.ip}, port {host.port}"
        print(f"# {where}; code in {host.folder}")
        for window in plan.on(key):
            print(f"{plan.session}:{window.name}\t{show(window)}")
    sets = "; ".join(f"learner-{le.rank}: {count(len(le.actors), 'actor')}" for le in plan.learners)
    print(f"# {count(len(plan.windows), 'command')} for {sizes(plan)} ({sets})")
    print(f"# each in the home of its host, in a window of the tmux session {plan.session!r}; nothing was started")
    return 0
