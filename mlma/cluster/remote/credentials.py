"""The secrets of one run: a token and two key pairs, created here and copied over the frontend's connections.

* Learners and actors authenticate each other with the token (mlma/transport/auth.py). It has mode 0600 everywhere.
* The tunnel's key lets actors' hosts connect to the learners' sockets on the learners' hosts, and do nothing else.
* mpirun's key lets the first learner's host start learners on the others, however the frontend itself logs in there.

From `up` to `down`, the public keys are in authorized_keys on learners' hosts. Each line is restricted and marked with
the run. known_hosts on the hosts contains the keys that the learners' hosts presented to the frontend. Not here:
writing the files on hosts (mlma/cluster/on_host/host_agent.py).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import paramiko

from mlma.cluster.planning.hosts import Host, run_folder
from mlma.cluster.planning.launch_plan import Plan
from mlma.cluster.planning.worker_commands import learner_socket

TOKEN, TUNNEL_KEY, MPI_KEY = "token", "tunnel_key", "mpi_key"
HOME_PLACEHOLDER = "@HOME@"  # the host agent replaces it by the home directory
NO_PORT = "localhost:1"  # permitlisten must name one
# Ciphers that processors compute themselves first: 1.2 ms for a megabyte at both ends, 2.4 with OpenSSH's first choice.
SSH_CONFIG_COMMON = """    IdentitiesOnly yes
    Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes256-ctr
    BatchMode yes
    StrictHostKeyChecking yes
    UserKnownHostsFile "{home}/{run}/known_hosts"
    GlobalKnownHostsFile /dev/null
    ConnectTimeout 10
    ServerAliveInterval 5
    ServerAliveCountMax 3
    LogLevel ERROR
"""


class HostIdentity(NamedTuple):
    """What a learner's host says of itself."""

    keys: list[str]  # public host keys
    home: str  # home directory; empty if nothing is authorized there


class Credentials:
    """The secrets in LOGDIR/cluster on this machine, until `down`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self) -> None:
        """Creates those that do not exist yet."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._create_missing(TOKEN, lambda path: _write_secret(path, secrets.token_hex(32) + "\n"))
        for name in (TUNNEL_KEY, MPI_KEY):
            self._create_missing(name, _create_key)

    def text(self, name: str) -> str:
        """The content of a file."""
        return (self._folder / name).read_text()

    def public_key(self, name: str) -> str:
        """Type and base64 of a public key."""
        key = paramiko.ECDSAKey.from_private_key_file(str(self._folder / name))
        return f"{key.get_name()} {key.get_base64()}"

    def remove(self) -> None:
        """Deletes all of them."""
        for name in (TOKEN, TUNNEL_KEY, MPI_KEY):
            (self._folder / name).unlink(missing_ok=True)

    def _create_missing(self, name: str, create: Callable[[Path], None]) -> None:
        path = self._folder / name
        if not path.exists():
            create(path)


def authorized_keys_lines(plan: Plan, credentials: Credentials, run_id: str) -> dict[str, list[str]]:
    """Host key -> lines for authorized_keys on that host."""
    lines: dict[str, list[str]] = {}
    tunnelled_ranks = {learner.rank for host in plan.hosts for learner in plan.tunnelled_learners(host)}
    # The sockets of all learners in every line: hosts that share a home share authorized_keys, and sshd uses the first
    # line with the key. A socket counts as the name of a host, at any port.
    sockets = [learner_socket(plan.session, learner.worker.host, learner.rank) for learner in plan.learners]
    allowed = ",".join(f'permitopen="[{HOME_PLACEHOLDER}/{socket}]:*"' for socket in sockets)
    allowed += f',permitlisten="{NO_PORT}"'
    for learner in plan.learners:
        host_key = learner.worker.host
        host_lines = lines.setdefault(host_key, [])
        if learner.rank in tunnelled_ranks and not any("permitopen" in line for line in host_lines):
            public_key = credentials.public_key(TUNNEL_KEY)
            host_lines.append(f'restrict,port-forwarding,{allowed},command="/bin/false" {public_key}')
        needs_mpi_key = plan.spans_hosts() and host_key != plan.head.key
        if needs_mpi_key and not any("SSH_ORIGINAL_COMMAND" in line for line in host_lines):
            command = f'exec env MLMA_RUN={run_id} sh -c \\"$SSH_ORIGINAL_COMMAND\\"'
            host_lines.append(f'restrict,command="{command}" {credentials.public_key(MPI_KEY)}')
    return {host_key: host_lines for host_key, host_lines in lines.items() if host_lines}


def credential_files(
    plan: Plan, credentials: Credentials, host: Host, identities: dict[str, HostIdentity]
) -> dict[str, tuple[str, int]]:
    """Name in the run's folder on this host -> text and mode."""
    files = {TOKEN: (credentials.text(TOKEN), 0o600)}
    sections: list[str] = []
    known_hosts: list[str] = []
    run = run_folder(plan.session, host.key)
    common = SSH_CONFIG_COMMON.format(home=HOME_PLACEHOLDER, run=run)
    for learner in plan.tunnelled_learners(host.key):
        target = plan.hosts[learner.worker.host]
        files[TUNNEL_KEY] = (credentials.text(TUNNEL_KEY), 0o600)
        here = f"{HOME_PLACEHOLDER}/{learner_socket(plan.session, host.key, learner.rank)}"
        there = f"{identities[target.key].home}/{learner_socket(plan.session, target.key, learner.rank)}"
        sections.append(
            f"Host learner-{learner.rank}\n    HostName {target.ip}\n    Port {target.port}\n    User {target.user}\n"
            f'    IdentityFile "{HOME_PLACEHOLDER}/{run}/{TUNNEL_KEY}"\n'
            "    ExitOnForwardFailure yes\n    StreamLocalBindUnlink yes\n"
            "    LogLevel INFO\n"  # says why a connection could not be forwarded
            f'    LocalForward "{here}" "{there}"\n{common}'
        )
        known_hosts += _known_hosts_lines(target, identities)
    if plan.spans_hosts() and host.key == plan.head.key:
        files[MPI_KEY] = (credentials.text(MPI_KEY), 0o600)
        for learner in plan.learners:
            target = plan.hosts[learner.worker.host]
            sections.append(
                f"Host {target.ip}\n    Port {target.port}\n    User {target.user}\n"
                f'    IdentityFile "{HOME_PLACEHOLDER}/{run}/{MPI_KEY}"\n{common}'
            )
            known_hosts += _known_hosts_lines(target, identities)
    if sections:
        files["ssh_config"] = ("".join(dict.fromkeys(sections)), 0o600)
        files["known_hosts"] = ("".join(f"{line}\n" for line in dict.fromkeys(known_hosts)), 0o600)
    return files


def _known_hosts_lines(host: Host, identities: dict[str, HostIdentity]) -> list[str]:
    name = host.ip if host.port == 22 else f"[{host.ip}]:{host.port}"
    return [f"{name} {key}" for key in (identities[host.key].keys if host.key in identities else [])]


def _write_secret(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _create_key(path: Path) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        paramiko.ECDSAKey.generate(bits=256).write_private_key(file)
