"""--sync: copies the code to the hosts over SFTP, only what differs, and sets up there. Never removes a file.

A host whose row names a python of its own is not set up: that environment is somebody else's; one whose row names an image gets
nothing. Not here: what set-up does (tools/setup.sh, docs/install.md).
"""

from __future__ import annotations

import hashlib
import time

from mlma.cluster.check import code_files, learners_on
from mlma.cluster.context import Context, count, faults
from mlma.cluster.plan import ROOT, Host
from mlma.cluster.ssh import Connection, Fault

SETUP = 1800.0  # seconds for a first set-up, which may compile
OTHERS = ("run_experiment_mm_raw.py", "pyproject.toml", "Makefile", "README.md", "tools/setup.sh")


def sync(context: Context) -> int:
    begun = time.monotonic()
    files = code_files() | {name: ROOT / name for name in OTHERS if (ROOT / name).exists()}
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
                raise Fault(f"set-up failed: {said[-1] if said else f'code {done.code}'}")
        return len(changed)

    answers = context.hosts.each([key for key, host in context.plan.hosts.items() if not (host.local or host.image)], bring)
    problems = faults(answers)
    for key, problem in problems.items():
        print(f"{key}: {problem}")
    copied = [answer for answer in answers.values() if isinstance(answer, int)]
    print(f"{count(sum(copied), 'file')} copied to {count(len(copied), 'host')}; {time.monotonic() - begun:.1f} s")
    return 1 if problems else 0


def _digests(connection: Connection, folder: str, names: list[str], seconds: float) -> dict[str, str]:
    """With sha256sum, since Python may not be there yet."""
    done = connection.run(["xargs", "-0", "sha256sum", "--"], "\0".join(f"{folder}/{name}" for name in names), seconds)
    found = {}
    for line in done.out.splitlines():
        digest, _, name = line.partition("  ")
        found[name.removeprefix(f"{folder}/")] = digest
    return found
