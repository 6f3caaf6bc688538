"""What ~/.ssh/config says of a host: its name, port, user, key and proxy, as ssh would take them.

paramiko parses the file; `Include` is followed here. A jump becomes the command that ssh would run for it. Only the
frontend's own connections go through a proxy: the workers reach each other directly. Not here: connecting
(mlma/cluster/remote/ssh_login.py).
"""

from __future__ import annotations

import functools
import glob
import shlex
from pathlib import Path
from typing import NamedTuple

import paramiko

FILE = "~/.ssh/config"
MAX_INCLUDES = 16  # of files in files


class SshSettings(NamedTuple):
    """What is known of a host; empty or 0 where the file says nothing."""

    hostname: str
    port: int
    user: str
    key_file: str
    proxy: str  # shell command that connects to its sshd


class SshConfig:
    """The text of the file, with those that it includes."""

    def __init__(self, text: str = "") -> None:
        self._text = text
        self.lookup = functools.cache(self._lookup)

    def _lookup(self, name: str, port: int = 0, user: str = "") -> SshSettings:
        """Settings of the host that is called `name`; ValueError if they cannot be read. `port` and `user`, if given,
        come first, as on ssh's command line."""
        if not self._text.strip():
            return SshSettings(name, 0, "", "", "")
        given = [f"Port {port}"] * (port > 0) + [f"User {user}"] * bool(user)
        try:
            found = paramiko.SSHConfig.from_text("\n".join(["Host *", *given, self._text])).lookup(name)
            hostname, found_port = str(found["hostname"]), int(found.get("port", 0))
        except (paramiko.SSHException, ValueError, KeyError, ImportError) as error:
            raise ValueError(f"{FILE}: cannot be read for host {name!r}: {error}") from None
        keys = [path for path in found.get("identityfile", []) if Path(path).expanduser().is_file()]
        proxy = str(found.get("proxycommand") or "")
        jump = str(found.get("proxyjump") or "none")
        if not proxy and jump != "none":
            proxy = jump_command(jump, hostname, found_port or 22)
        return SshSettings(hostname, found_port, str(found.get("user", "")), keys[0] if keys else "", proxy)


def read_ssh_config() -> SshConfig:
    """The user's file, which may be missing; ValueError if it cannot be read."""
    return SshConfig(_text(Path(FILE).expanduser(), MAX_INCLUDES))


def jump_command(jump: str, hostname: str, port: int) -> str:
    """The command that ssh runs for `ProxyJump`. It prompts for nothing: several hosts are contacted at once."""
    *first, last = (hop if hop.startswith("ssh://") else f"ssh://{hop}" for hop in jump.split(","))
    target = f"[{hostname}]:{port}"
    through = ["-J", ",".join(first)] if first else []
    return shlex.join(["ssh", "-o", "BatchMode=yes", *through, "-W", target, last])


def _text(path: Path, depth: int) -> str:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    text = []
    for line in lines:
        words = line.replace("=", " ", 1).split()
        if not words or words[0].lower() != "include":
            text.append(line)
        elif depth:
            for pattern in shlex.split(" ".join(words[1:])):
                full = str(Path("~/.ssh").expanduser() / Path(pattern).expanduser())
                text += [_text(Path(name), depth - 1) for name in sorted(glob.glob(full))]
    return "\n".join(text)
