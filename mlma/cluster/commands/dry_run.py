"""dry-run: prints every command of the launch plan; contacts no host."""

from __future__ import annotations

from mlma.cluster.context import Context, plural, summarize_plan
from mlma.cluster.planning.worker_commands import shell_command


def dry_run(context: Context) -> int:
    """Prints the commands by host, each after its tmux window."""
    plan = context.plan
    for key, host in plan.hosts.items():
        name = "this machine" if host.local else f"{host.user}@{host.ip}, port {host.port}"
        print(f"# {name}; code in {host.folder}")
        for process in plan.processes_on(key):
            print(f"{plan.name}:{process.name}\t{shell_command(process)}")
    worker_sets = "; ".join(f"learner-{le.rank}: {plural(len(le.actors), 'actor')}" for le in plan.learners)
    print(f"# {plural(len(plan.processes), 'command')} for {summarize_plan(plan)} ({worker_sets})")
    print(
        f"# each would run in the home directory of its host, in a window of the tmux session {plan.name!r}; "
        "nothing was started"
    )
    if not context.state.workers:
        print("# ID stands for the id of the run, which `up` chooses")
    return 0
