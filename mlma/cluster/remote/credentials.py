"""The secrets of one run, made here and brought to the hosts over our own connections: a token and two key pairs.

* the token: learners and actors show it to each other (mlma/transport/server.py); mode 0600 everywhere.
* the tunnel's key lets actors' hosts into learners' hosts for one thing only: to reach the learner's port on loopback.
* mpirun's key lets the first learner's host start learners on the others, whatever way the frontend itself got in there.

The public halves stand in authorized_keys on learners' hosts from `up` to `down`, each line restricted and marked with the run.
known_hosts there holds the keys that the hosts showed to us. Not here: who writes the files (mlma/cluster/on_host/host_agent.py).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import paramiko

from mlma.cluster.planning.launch_plan import HOME_PLACEHOLDER, Host, Plan, run_folder

TOKEN, TUNNEL, MPI = "token", "tunnel_key", "mpi_key"
SSH_CONFIG_COMMON = """    IdentitiesOnly yes
    BatchMode yes
    StrictHostKeyChecking yes
    UserKnownHostsFile "{home}/{run}/known_hosts"
    GlobalKnownHostsFile /dev/null
    ConnectTimeout 10
    ServerAliveInterval 5
    ServerAliveCountMax 3
    LogLevel ERROR
"""


class Credentials:
    """In the folder of the run on this machine, until `down`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self) -> None:
        """Those that are there already stay."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._once(TOKEN, lambda path: _write(path, secrets.token_hex(32) + "\n"))
        for name in (TUNNEL, MPI):
            self._once(name, _make_key)

    def _once(self, name: str, make: object) -> None:
        path = self._folder / name
        if not path.exists():
            assert callable(make)
            make(path)

    def text(self, name: str) -> str:
        return (self._folder / name).read_text()

    def public(self, name: str) -> str:
        key = paramiko.ECDSAKey.from_private_key_file(str(self._folder / name))
        return f"{key.get_name()} {key.get_base64()}"

    def remove(self) -> None:
        for name in (TOKEN, TUNNEL, MPI):
            (self._folder / name).unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _make_key(path: Path) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        paramiko.ECDSAKey.generate(bits=256).write_private_key(file)


def authorized_keys_lines(plan: Plan, keys: Credentials, run_id: str) -> dict[str, list[str]]:
    """Host -> lines for its authorized_keys."""
    lines: dict[str, list[str]] = {}
    tunnelled = {learner.rank for host in plan.hosts for learner in plan.tunnels(host)}
    # All ports in every line: hosts that share a home share authorized_keys, and sshd takes the first line that has the key.
    ports = sorted({learner.port for learner in plan.learners})
    allowed = ",".join(f'permitopen="127.0.0.1:{port}"' for port in ports)
    for learner in plan.learners:
        key = learner.worker.host
        here = lines.setdefault(key, [])
        if learner.rank in tunnelled and not any("permitopen" in line for line in here):
            here.append(f'restrict,port-forwarding,{allowed},command="/bin/false" {keys.public(TUNNEL)}')
        if plan.spread() and key != plan.head.key and not any("SSH_ORIGINAL_COMMAND" in line for line in here):
            command = f'exec env MLMA_RUN={run_id} sh -c \\"$SSH_ORIGINAL_COMMAND\\"'
            here.append(f'restrict,command="{command}" {keys.public(MPI)}')
    return {key: here for key, here in lines.items() if here}


def credential_files(
    plan: Plan, keys: Credentials, host: Host, host_keys: dict[str, list[str]]
) -> dict[str, tuple[str, int]]:
    """Name in the run's folder on this host -> text and mode."""
    found = {TOKEN: (keys.text(TOKEN), 0o600)}
    sections, known = [], []
    run = run_folder(plan.session, host.key)
    common = SSH_CONFIG_COMMON.format(home=HOME_PLACEHOLDER, run=run)
    for learner in plan.tunnels(host.key):
        there = plan.hosts[learner.worker.host]
        found[TUNNEL] = (keys.text(TUNNEL), 0o600)
        sections.append(
            f"Host learner-{learner.rank}\n    HostName {there.ip}\n    Port {there.port}\n    User {there.user}\n"
            f'    IdentityFile "{HOME_PLACEHOLDER}/{run}/{TUNNEL}"\n    ExitOnForwardFailure yes\n    StreamLocalBindUnlink yes\n'
            f'    LocalForward "{HOME_PLACEHOLDER}/{run}/learner-{learner.rank}.sock" 127.0.0.1:{learner.port}\n{common}'
        )
        known += _known_hosts_lines(there, host_keys)
    if plan.spread() and host.key == plan.head.key:
        found[MPI] = (keys.text(MPI), 0o600)
        for learner in plan.learners:
            there = plan.hosts[learner.worker.host]
            sections.append(
                f"Host {there.ip}\n    Port {there.port}\n    User {there.user}\n"
                f'    IdentityFile "{HOME_PLACEHOLDER}/{run}/{MPI}"\n{common}'
            )
            known += _known_hosts_lines(there, host_keys)
    if sections:
        found["ssh_config"] = ("".join(dict.fromkeys(sections)), 0o600)
        found["known_hosts"] = ("".join(f"{line}\n" for line in dict.fromkeys(known)), 0o600)
    return found


def _known_hosts_lines(host: Host, host_keys: dict[str, list[str]]) -> list[str]:
    name = host.ip if host.port == 22 else f"[{host.ip}]:{host.port}"
    return [f"{name} {key}" for key in host_keys.get(host.key, [])]
