"""exec: one shell command on every host of the run, or of a CSV, at once; prints what it prints, by host."""

from __future__ import annotations

import shlex

from mlma.cluster.context import Context, display_name
from mlma.cluster.planning.hosts import Host
from mlma.cluster.remote.ssh import CommandResult, Connection
from mlma.cluster.remote.ssh_login import HostError


def execute(context: Context) -> int:
    """Exit code 1 if a host could not be reached, or the command ended with another code than 0 on one."""
    words = context.invocation.operands
    if not words:
        raise ValueError("exec: a command is required, in quotes if it has flags, such as exec 'nvidia-smi -L'")
    text = words[0] if len(words) == 1 else shlex.join(words)

    def run(host: Host, connection: Connection) -> CommandResult:
        return connection.run(["sh", "-c", text], "", context.hosts.command_seconds)

    failed = False
    for key, answer in context.hosts.for_each(context.plan.hosts, run).items():
        if isinstance(answer, HostError):
            failed = True
            print(f"{key}: {answer}")
            continue
        name = display_name(context.plan.hosts[key])
        for line in f"{answer.stdout}{answer.stderr}".splitlines():
            print(f"{name}: {line}")
        if answer.code:
            failed = True
            print(f"{name}: ended with code {answer.code}")
    return 1 if failed else 0
