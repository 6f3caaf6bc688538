"""The columns of a CSV of workers: their names, meanings and allowed values.

The header of earlier systems, `BASE_COLUMNS`, is accepted unchanged; `OPTIONAL_COLUMNS` may be added. Not here: reading
a CSV (mlma/cluster/planning/workers_csv.py).
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable
from typing import Any

from mlma.core.config.limits import MAX_ENVS_PER_ACTOR
from mlma.utils.input_file import is_file

BASE_COLUMNS = ("job", "ip", "tf_port", "cuda_visible_devices", "ssh_port", "ssh_username", "ssh_password")
OPTIONAL_COLUMNS = ("ssh_key_file", "folder", "python", "envs_per_actor", "num_actors", "image")
REQUIRED_COLUMNS = ("job", "ip")


def _integer(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,12}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"must be an integer from {minimum} to {maximum}, or empty")
        return int(text)

    return parse


def _matching(pattern: str, allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {allowed}")
        return text

    return parse


def _address(text: str) -> str:
    """A host name or an address; an IPv6 address without the brackets that may be around it."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        return text
    if ":" in text:
        bare = text.removeprefix("[").removesuffix("]")
        try:
            address = ipaddress.IPv6Address(bare)
        except ValueError:
            raise ValueError(f"must be {ADDRESS_KINDS}; the port has its own column, ssh_port") from None
        if address.is_link_local:
            raise ValueError("must be an address with which every host means the same one; this one is link-local")
        return str(address)
    raise ValueError(f"must be {ADDRESS_KINDS}")


def _key_file(text: str) -> str:
    if not is_file(text):
        raise ValueError("must be a file on this machine, or empty")
    return text


def _command(text: str) -> str:
    try:
        argv = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"must be a command, quoted as in a shell ({error}), or empty") from None
    if not argv:
        raise ValueError("must be a command, or empty")
    return text


ADDRESS_KINDS = "a host name, an IPv4 or IPv6 address, or localhost"
PORT = _integer(1, 65535)
COLUMNS: dict[str, Callable[[str], Any]] = {
    "job": _matching("learner|actor", "learner or actor"),
    "ip": _address,
    "tf_port": PORT,
    "cuda_visible_devices": _matching(r"(?a:-1|[\w-]+(,[\w-]+)*)", 'GPU numbers such as 0 or "0,1", -1, or empty'),
    "ssh_port": PORT,
    "ssh_username": _matching(r"[\w.][\w.@$-]*", "a user name, or empty"),
    "ssh_password": str,
    "ssh_key_file": _key_file,
    "folder": _matching(
        r"[^\0\n~-][^\0\n]*", "a folder on the host, absolute or relative to the home directory (without ~), or empty"
    ),
    "python": _command,
    "envs_per_actor": _integer(1, MAX_ENVS_PER_ACTOR),
    "num_actors": _integer(1, 10_000),
    "image": _matching(r"(?a:[\w/][\w./:@+-]*)", "a container image (name or file), or empty"),
}


# Meaning of each column, for docs/reference/workers_csv.md.
COLUMN_DESCRIPTIONS = {
    "job": "`learner` or `actor`",
    "ip": "host name or address (IPv4 or IPv6) at which this machine and the other workers reach the host, or a "
    "`Host` entry of `~/.ssh/config`; `localhost` means this machine, without SSH, and so does an address of this "
    "machine in a row without `ssh_username` and `ssh_port`",
    "tf_port": "port on which a learner listens with `--channel=tls`; if empty, 8001, 8002, ... on each host; actors "
    "open no port",
    "cuda_visible_devices": 'GPUs that a learner may use: `0` or `"0,1"`, -1 for none; if empty, what is set on the '
    "host; actors never use a GPU",
    "ssh_port": "SSH port; if empty, the one in `~/.ssh/config`, or 22",
    "ssh_username": "account on the host; if empty, the one in `~/.ssh/config`, or the user name on this machine",
    "ssh_password": "password, tried after keys and agent were refused; if empty, that of `--ask_password` or "
    "`MLMA_SSH_PASSWORD`",
    "ssh_key_file": "private key, a file on this machine; if empty, the one in `~/.ssh/config`, or `--ssh_key_file`, "
    "the agent and the usual files in `~/.ssh`",
    "folder": "folder of the code on the host, absolute or relative to the home directory; if empty, "
    "`--remote_folder`, or for local rows this checkout",
    "python": "Python on the host, or a command that runs it; if empty, `FOLDER/.venv/bin/python`, or for local rows "
    "the Python that runs the frontend",
    "envs_per_actor": "environments per actor of this row; if empty, `--envs_per_actor` or the value of the preset",
    "num_actors": "number of actors that this row stands for; if empty, 1",
    "image": "container image for the workers of this row, which the command in `--container` starts; `folder` is then "
    "a folder inside the image; if empty, no container",
}
