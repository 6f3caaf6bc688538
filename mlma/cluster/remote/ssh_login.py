"""Opens an SSH connection: host key, then keys and agent, then the password. Every failure is one line.

The host's key must be in known_hosts. The password is used inside the encrypted connection only. Not here: what is done
with the connection (mlma/cluster/remote/ssh.py).
"""

from __future__ import annotations

import base64
import contextlib
import errno
import logging
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import paramiko

from mlma.cluster.planning.hosts import Host

logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False  # its threads log tracebacks; failures become a HostError
USUAL_KEY_FILES = ("id_rsa", "id_ecdsa", "id_ed25519")  # in ~/.ssh, which are tried if no other is named
OPENSSH_MAGIC = b"openssh-key-v1\0"  # begins a private key in OpenSSH's format
_known_hosts_lock = threading.Lock()


class HostError(Exception):
    """Why a host could not be used, in one line."""


class SshLogin(NamedTuple):
    """How to log in. `password` may be empty."""

    password: str
    known_hosts: Path
    accept_new_host_keys: bool
    timeout: float  # seconds for each of connecting, the SSH greeting, and authentication

    def __repr__(self) -> str:
        return "SshLogin(...)"


class _UnknownHostKeys(paramiko.MissingHostKeyPolicy):
    """Called for a host that is not in known_hosts."""

    def __init__(self, login: SshLogin) -> None:
        self._login = login

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Refuses the key, or learns it with --accept_new_host_keys."""
        if not self._login.accept_new_host_keys:
            raise HostError(
                f"unknown host key ({key.get_name()} {key.fingerprint}); not in {self._login.known_hosts}; "
                "--accept_new_host_keys adds it"
            )
        with _known_hosts_lock:
            path = self._login.known_hosts
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(f"{hostname} {key.get_name()} {key.get_base64()}\n")


class _NoKeysError(Exception):
    """Neither the agent nor the key files had a key to try."""


def open_client(host: Host, login: SshLogin, accepted: Callable[[], None]) -> paramiko.SSHClient:
    """Keys first. The password gets a connection of its own, since a server counts every key that it refuses."""
    try:
        return _open_client(host, login, None, accepted)
    except (paramiko.AuthenticationException, paramiko.PasswordRequiredException, _NoKeysError):
        if not login.password:
            raise HostError(f"authentication as {host.user!r} failed: {_no_key_reason(host)}") from None
    try:
        return _open_client(host, login, login.password, accepted)
    except paramiko.AuthenticationException:
        raise HostError(
            f"authentication as {host.user!r} failed: neither a key nor the password was accepted"
        ) from None


def _no_key_reason(host: Host) -> str:
    tried = [Path(host.key_file)] if host.key_file else [Path("~/.ssh", name) for name in USUAL_KEY_FILES]
    encrypted = [path for path in tried if is_encrypted(path)]
    if not encrypted:
        return "no key was accepted, and no password is set"
    return (
        f"the key {encrypted[0]} is encrypted, so it is used only through an agent, which did not have it or was "
        f"refused; to add it, run: ssh-add {encrypted[0]}"
    )


def is_encrypted(path: Path) -> bool:
    """Whether a private key needs a passphrase. False for what is no private key."""
    try:
        text = path.expanduser().read_text()
    except (OSError, RuntimeError, ValueError):
        return False
    if "BEGIN OPENSSH PRIVATE KEY" not in text:
        return "ENCRYPTED" in text and "PRIVATE KEY" in text
    try:
        data = base64.b64decode("".join(line for line in text.splitlines() if not line.startswith("-")))
    except ValueError:
        return False
    cipher_start = len(OPENSSH_MAGIC) + 4  # after the length of the cipher's name
    return data.startswith(OPENSSH_MAGIC) and not data[cipher_start:].startswith(b"none")


def _open_client(host: Host, login: SshLogin, password: str | None, accepted: Callable[[], None]) -> paramiko.SSHClient:
    """With the password, or with keys if that is None."""
    client = paramiko.SSHClient()
    try:
        if login.known_hosts.exists():
            client.load_system_host_keys(str(login.known_hosts))  # "system": paramiko never writes the file
    except (paramiko.SSHException, OSError, ValueError) as error:
        raise HostError(f"{login.known_hosts}: {first_line(error)}") from None
    client.set_missing_host_key_policy(_UnknownHostKeys(login))
    use_keys = password is None
    key_file = str(Path(host.key_file).expanduser()) if host.key_file and use_keys else None
    timeout = login.timeout
    stream: socket.socket | paramiko.ProxyCommand | None = None
    try:
        stream = _open_stream(host, timeout)
        accepted()
        client.connect(
            host.ip, host.port, host.user, sock=stream,
            password=password, key_filename=key_file, allow_agent=use_keys, look_for_keys=use_keys,
            timeout=timeout, banner_timeout=timeout, auth_timeout=timeout, channel_timeout=timeout,
        )  # fmt: skip
        return client
    except BaseException as error:
        client.close()
        if stream:
            stream.close()
        if isinstance(stream, paramiko.ProxyCommand) and (reason := _proxy_failure(stream, error)):
            raise HostError(reason) from None
        raise _host_error(error, host, timeout) from None


def _open_stream(host: Host, timeout: float) -> socket.socket | paramiko.ProxyCommand:
    """A connection to the host's sshd, directly or through the command that ~/.ssh/config names."""
    if host.proxy:
        return paramiko.ProxyCommand(shlex.join(["sh", "-c", f"exec {host.proxy}"]))
    return socket.create_connection((host.ip, host.port), timeout)


def _proxy_failure(stream: paramiko.ProxyCommand, error: BaseException) -> str:
    """What the proxy itself printed, if the connection failed before anything was authenticated."""
    if isinstance(error, paramiko.AuthenticationException | paramiko.BadHostKeyException | HostError | _NoKeysError):
        return ""
    errors = b""
    with contextlib.suppress(subprocess.TimeoutExpired, ValueError, OSError):
        errors = stream.process.communicate(timeout=1)[1]
    lines = errors.decode(errors="replace").split("\n") if errors else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), first_line(error))
    return f"the proxy that ~/.ssh/config names for it failed: {last}"


def _host_error(error: BaseException, host: Host, timeout: float) -> BaseException:
    """A failed connection as a HostError. Errors of authentication stay, since the password may still be tried."""
    match error:
        case paramiko.AuthenticationException() if "timeout" in str(error).lower():
            return HostError(f"accepts connections, but does not authenticate within {timeout:.0f} s")
        case HostError() | paramiko.AuthenticationException() | paramiko.PasswordRequiredException():
            return error
        case paramiko.BadHostKeyException():
            name = host.ip if host.port == 22 else f"[{host.ip}]:{host.port}"
            return HostError(
                "host key has CHANGED: another machine, or an attack; if the change is expected, run: "
                f"ssh-keygen -R '{name}'"
            )
        case socket.gaierror():
            return HostError("host name cannot be resolved")
        case TimeoutError():
            return HostError(f"no answer within {timeout:.0f} s: host down, unreachable, or behind a firewall")
        case ConnectionRefusedError():
            return HostError(f"connection to port {host.port} refused: no sshd there")
        case OSError() if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
            return HostError(f"cannot be reached: {first_line(error)}")
        case paramiko.SSHException() if "No authentication methods" in str(error):
            return _NoKeysError()
        case paramiko.SSHException() if any(
            word in str(error) for word in ("banner", "No existing session", "Timeout")
        ):
            return HostError(f"accepts connections, but does not answer as SSH within {timeout:.0f} s")
        case paramiko.SSHException() | OSError() | EOFError() | ValueError():
            return HostError(first_line(error))
    return error


def first_line(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), "") or type(error).__name__
