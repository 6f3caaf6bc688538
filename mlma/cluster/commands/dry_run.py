"""dry-run: prints every command of the launch plan; contacts no host."""

from __future__ import annotations

from mlma.cluster.context import Context, plural, summarize_plan
from mlma.cluster.planning.launch_plan import shell_command


def dry_run(context: Context) -> int:
    plan = context.plan
    for key, host in plan.hosts.items():
        where = "this machine" if host.local else f"{host.user}@{host.ip}, port {host.port}"
        print(f"# {where}; code in {host.folder}")
        for window in plan.on(key):
            print(f"{plan.session}:{window.name}\t{shell_command(window)}")
    sets = "; ".join(f"learner-{le.rank}: {plural(len(le.actors), 'actor')}" for le in plan.learners)
    print(f"# {plural(len(plan.windows), 'command')} for {summarize_plan(plan)} ({sets})")
    print(f"# each in the home of its host, in a window of the tmux session {plan.session!r}; nothing was started")
    return 0
