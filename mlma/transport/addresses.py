"""The addresses of learners: what `--learner_host` may be, and by which channel actors reach the learner there.

* A unix socket in a folder that only this user can open: on one machine, or behind an SSH tunnel. The file system
  authenticates. An address on loopback means such a socket, too, if there is no token.
* host:port with a token: mutual TLS (mlma/transport/gateway.py).
* host:port with `--insecure_plaintext`: TCP without protection.

Not here: who listens (mlma/transport/listening.py), who connects (mlma/transport/relay.py).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from mlma.utils.user_text import printable

MIN_TOKEN_CHARACTERS = 16  # the run's certificate follows from the token, so it must not be guessable
MAX_SOCKET_CHARACTERS = 100  # of a path; the kernel's limit is 107
MAX_SHOWN_CHARACTERS = 80  # of an address in a message
FROM_PARENT = "parent"  # --learner_host of a local actor, which gets the address from its parent, by standard input
ALLOWED = "host:port with a port from 1 to 65535, unix:/path, or auto"


class Address(NamedTuple):
    """Where a learner is, and the channel to it."""

    channel: Literal["socket", "tls", "plaintext"]
    host: str  # of a socket its path
    port: int = 0

    def __str__(self) -> str:
        if self.channel == "socket":
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, token: str, plaintext: bool) -> Address:
    """The address that `--learner_host` means; ValueError in one line if it is malformed or needs a token."""
    shown = printable(text, MAX_SHOWN_CHARACTERS)
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or not path.isprintable() or len(os.fsencode(path)) > MAX_SOCKET_CHARACTERS:
            allowed = f"at most {MAX_SOCKET_CHARACTERS} printable characters of path"
            raise ValueError(f"--learner_host={shown}: not the path of a unix socket; allowed: {allowed}")
        return Address("socket", path)
    host, _, port_text = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    valid_port = port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and 0 < int(port_text) < 65536
    if not host or not host.isprintable() or not host.isascii() or set(host) & set(" []/@") or not valid_port:
        raise ValueError(f"--learner_host={shown}: not an address; allowed: {ALLOWED}")
    port = int(port_text)
    if plaintext:
        return Address("plaintext", host, port)
    if token:
        if len(token) < MIN_TOKEN_CHARACTERS:
            raise ValueError(
                f"--learner_host={shown}: the token has {len(token)} characters and could be guessed; allowed: at "
                f"least {MIN_TOKEN_CHARACTERS} random ones, such as those of `openssl rand -hex 32`"
            )
        return Address("tls", host, port)
    if is_loopback(host):
        return Address("socket", str(_socket_of_port(port)))
    raise ValueError(
        f"--learner_host={shown}: is open to the network, which needs a shared token: set MLMA_TOKEN or --token_file"
    )


def receive_address() -> str:
    """In a local actor: the address of its learner. Waits until that serves; "" if it ended before."""
    return sys.stdin.readline().strip()


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine's loopback interface. Other names are not resolved."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local_ip(ip: str) -> bool:
    """Whether an address is one of this machine's, found by binding to it; False for a host name."""
    is_ipv4 = re.fullmatch(r"\d+\.\d+\.\d+\.\d+", ip)
    if not is_ipv4 and ":" not in ip:
        return False
    with socket.socket(socket.AF_INET if is_ipv4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True


def is_on_this_machine(address: Address) -> bool:
    """Whether the learner is on this machine; the local end of an SSH tunnel counts."""
    return address.channel == "socket" or is_loopback(address.host) or is_local_ip(address.host)


def open_connection(address: Address, seconds: float) -> socket.socket:
    """A connection to the server or gateway at this address; OSError if there is none within `seconds`."""
    if address.channel != "socket":
        return socket.create_connection((address.host, address.port), timeout=seconds)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(seconds)
        connection.connect(address.host)
    except OSError:
        connection.close()
        raise
    return connection


def check_private_folder(folder: Path, flag: str) -> None:
    """ValueError in one line unless `folder` is a folder of this user that nobody else can open."""
    try:
        status = os.lstat(folder)
    except OSError as error:
        raise ValueError(f"{flag}: {folder}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{flag}: {folder}: is not a folder")
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ValueError(
            f"{flag}: {folder}: has mode {stat.S_IMODE(status.st_mode):04o} and owner {status.st_uid}, so others can "
            f"reach the learner's socket; allowed: a folder of yours with mode 0700"
        )


def _socket_of_port(port: int) -> Path:
    """The socket that stands for a port on loopback: the same for all processes of this user."""
    folder = Path(f"/tmp/mlma-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    check_private_folder(folder, f"--learner_host=localhost:{port}")
    return folder / f"learner-{port}"
