"""--sync: copies changed files of the code to the hosts, in one stream each, and sets them up. Never removes a file.

A host whose row names its own python gets the code, but is not set up. A host whose row names an image gets nothing.
Not here: what the set-up does (tools/setup.sh, docs/install.md).
"""

from __future__ import annotations

import hashlib
import time

from mlma.cluster.context import Context, host_errors, plural
from mlma.cluster.planning.hosts import Host
from mlma.cluster.remote.code_files import code_files
from mlma.cluster.remote.ssh import Connection
from mlma.cluster.remote.ssh_login import HostError
from mlma.utils.code_layout import ROOT

SETUP_TIMEOUT_SECONDS = 1800.0  # a first set-up may compile
OTHER_FILES = ("run_experiment_mm_raw.py", "pyproject.toml", "Makefile", "README.md", "tools/setup.sh")


def sync(context: Context) -> int:
    """Exit code 1 if a host failed. Such a host is left out of all that follows, since it has other code."""
    started = time.monotonic()
    files = code_files() | {name: ROOT / name for name in OTHER_FILES if (ROOT / name).exists()}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    several_learners = len(context.plan.learners) > 1

    def sync_host(host: Host, connection: Connection) -> int:
        remote = _remote_digests(connection, host.folder, list(files), context.hosts.command_seconds)
        changed = {name: files[name] for name in files if remote.get(name) != digests[name]}
        if changed:
            context.hosts.note(host.key, f"copying {plural(len(changed), 'file')}")
            connection.put(host.folder, changed, context.hosts.command_seconds)
        if host.python[0] == f"{host.folder}/.venv/bin/python":
            context.hosts.note(host.key, "setting up")
            groups = ["learner"] if several_learners and context.plan.learners_on(host) else []
            setup = ["bash", f"{host.folder}/tools/setup.sh", *groups]
            result = connection.run(setup, "", SETUP_TIMEOUT_SECONDS)
            if result.code:
                output = (result.stderr.strip() or result.stdout.strip()).splitlines()
                raise HostError(f"set-up failed: {output[-1] if output else f'code {result.code}'}")
        return len(changed)

    keys = [key for key, host in context.plan.hosts.items() if not (host.local or host.image)]
    answers = context.hosts.for_each(keys, sync_host)
    problems = host_errors(answers)
    context.hosts.exclude({key: HostError(f"left out, because --sync failed: {why}") for key, why in problems.items()})
    copied = [answer for answer in answers.values() if isinstance(answer, int)]
    seconds = time.monotonic() - started
    failed = f", not to {plural(len(problems), 'host')}" if problems else ""
    print(f"{plural(sum(copied), 'file')} copied to {plural(len(copied), 'host')}{failed}; {seconds:.1f} s")
    return 1 if problems else 0


def _remote_digests(connection: Connection, folder: str, names: list[str], seconds: float) -> dict[str, str]:
    """Computed by sha256sum, since Python may not be installed yet."""
    paths = "\0".join(f"{folder}/{name}" for name in names)
    result = connection.run(["xargs", "-0", "sha256sum", "--"], paths, seconds)
    digests = {}
    for line in result.stdout.splitlines():
        digest, _, name = line.partition("  ")
        digests[name.removeprefix(f"{folder}/")] = digest
    return digests
