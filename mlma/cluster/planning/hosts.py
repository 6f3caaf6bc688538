"""The hosts of a run, and the folders and Pythons on them.

Paths on a host are relative to the home directory of its account, where every worker runs. The run's folder is
.mlma/NAME-ID/HOST, because hosts may share a home directory, and runs a name. Not here: connections to hosts
(mlma/cluster/remote/).
"""

from __future__ import annotations

import collections
import dataclasses
import getpass
import shlex
import sys
from pathlib import Path

from mlma.cluster.options import Options
from mlma.cluster.planning.workers_csv import Worker
from mlma.utils.code_layout import ROOT

TMUX_SOCKET = "tmux"  # of the run's own tmux server, in its folder
IMAGE_CODE_FOLDER = "/opt/mlma"  # folder of the code in container images


@dataclasses.dataclass(frozen=True)
class Host:
    """A machine and an account on it."""

    key: str  # "user@ip:port" or "localhost"
    ip: str
    port: int
    user: str
    local: bool
    key_file: str
    python: tuple[str, ...]  # command that runs Python on the host
    folder: str  # of the code
    image: str = ""  # container image of its workers; then `python` only runs the frontend's helper
    label: str = ""  # its name in tables
    proxy: str = ""  # shell command that connects to its sshd, if ~/.ssh/config names one
    alias: str = ""  # what ~/.ssh/config calls it, if that is not its address


def plan_hosts(workers: list[Worker], options: Options) -> dict[str, Host]:
    """Host key -> host. A host is described by its first row; learners first, since mpirun is next to their Python."""
    hosts: dict[str, Host] = {}
    names = {worker.host: host_name(worker) for worker in workers}
    shared = {name for name, count in collections.Counter(names.values()).items() if count > 1}
    for worker in sorted(workers, key=lambda worker: worker.job != "learner"):
        user = getpass.getuser() if worker.local else worker.host.partition("@")[0]
        host = Host(
            worker.host,
            worker.ip,
            worker.ssh_port or 22,
            user,
            worker.local,
            worker.ssh_key_file or options.ssh_key_file,
            python_command(worker, options),
            code_folder(worker, options),
            worker.image,
            f"{user}@{names[worker.host]}" if names[worker.host] in shared else names[worker.host],
            worker.proxy,
            worker.alias,
        )
        hosts.setdefault(worker.host, host)
    return hosts


def host_name(worker: Worker) -> str:
    """The name of a row's host in tables. Several accounts of one host need their user in addition."""
    if worker.local:
        return "localhost"
    port = worker.ssh_port or 22
    return (worker.alias or worker.ip) if port == 22 or worker.alias else worker.host.partition("@")[2]


def run_folder(session: str, host_key: str) -> str:
    """The run's folder on a host, relative to the home directory."""
    address = host_key.rpartition("@")[2].removesuffix(":22")
    if address.startswith("["):  # an IPv6 address; neither brackets nor colons, which have a meaning in paths of ssh
        address = address.replace("]:", "-port").strip("[]")
    return f".mlma/{session}/{address.replace(':', '-')}"


def attach_argv(session: str, host: Host) -> list[str]:
    """The command that shows the run's tmux session; on other hosts, from the home directory."""
    folder = run_folder(session, host.key)
    return ["tmux", "-S", f"{Path.home() / folder if host.local else folder}/{TMUX_SOCKET}", "attach"]


def code_folder(worker: Worker, options: Options) -> str:
    """Folder of the code; inside the container if the row names an image."""
    if worker.folder:
        return worker.folder
    if worker.image:
        return IMAGE_CODE_FOLDER
    return str(ROOT) if worker.local else options.remote_folder


def python_command(worker: Worker, options: Options) -> tuple[str, ...]:
    """The command that runs Python on the worker's host, outside of any container."""
    if worker.python:
        return tuple(shlex.split(worker.python))
    if worker.local and (worker.image or not worker.folder):
        return (sys.executable,)
    return ("python3",) if worker.image else (f"{code_folder(worker, options)}/.venv/bin/python",)
