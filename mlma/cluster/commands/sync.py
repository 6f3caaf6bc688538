"""--sync: copies the code to the hosts over SFTP, only what differs, and sets up there. Never removes a file.

A host whose row names a python of its own is not set up: that environment is somebody else's; one whose row names an image gets
nothing. Not here: what set-up does (tools/setup.sh, docs/install.md).
"""

from __future__ import annotations

import hashlib
import time

from mlma.cluster.context import Context, host_errors, plural
from mlma.cluster.planning.launch_plan import CHECKOUT, Host, learners_on
from mlma.cluster.remote.code_files import code_files
from mlma.cluster.remote.ssh import Connection, HostError

SETUP = 1800.0  # seconds for a first set-up, which may compile
OTHERS = ("run_experiment_mm_raw.py", "pyproject.toml", "Makefile", "README.md", "tools/setup.sh")


def sync(context: Context) -> int:
    begun = time.monotonic()
    files = code_files() | {name: CHECKOUT / name for name in OTHERS if (CHECKOUT / name).exists()}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    several = len(context.plan.learners) > 1

    def bring(host: Host, connection: Connection) -> int:
        there = _digests(connection, host.folder, list(files), context.hosts.seconds)
        changed = {f"{host.folder}/{name}": files[name] for name in files if there.get(name) != digests[name]}
        connection.put(changed)
        if host.python[0] == f"{host.folder}/.venv/bin/python":
            groups = ["learner"] if several and learners_on(context.plan, host) else []
            done = connection.run(["bash", f"{host.folder}/tools/setup.sh", *groups], "", SETUP)
            if done.code:
                said = (done.err.strip() or done.out.strip()).splitlines()
                raise HostError(f"set-up failed: {said[-1] if said else f'code {done.code}'}")
        return len(changed)

    answers = context.hosts.each(
        [key for key, host in context.plan.hosts.items() if not (host.local or host.image)], bring
    )
    problems = host_errors(answers)
    for key, problem in problems.items():
        print(f"{key}: {problem}")
    copied = [answer for answer in answers.values() if isinstance(answer, int)]
    print(f"{plural(sum(copied), 'file')} copied to {plural(len(copied), 'host')}; {time.monotonic() - begun:.1f} s")
    return 1 if problems else 0


def _digests(connection: Connection, folder: str, names: list[str], seconds: float) -> dict[str, str]:
    """With sha256sum, since Python may not be there yet."""
    done = connection.run(["xargs", "-0", "sha256sum", "--"], "\0".join(f"{folder}/{name}" for name in names), seconds)
    found = {}
    for line in done.out.splitlines():
        digest, _, name = line.partition("  ")
        found[name.removeprefix(f"{folder}/")] = digest
    return found
