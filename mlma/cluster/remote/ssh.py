"""One connection to one host: run a command, copy files. This machine is behind the same interface, without ssh.

Every wait has a limit, and whatever goes wrong becomes a `Fault` of one line. A host's key must be in known_hosts. Keys and the
agent go first, the password after them; a password goes nowhere but into the encrypted connection. Not here: many hosts at once
(mlma/cluster/remote/host_pool.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import socket
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple, Protocol

import paramiko

from mlma.cluster.planning.launch_plan import Host

logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False  # its threads print tracebacks; what matters becomes a Fault
SECRETS = ("MLMA_TOKEN", "MLMA_SSH_PASSWORD", "MLMA_PARENT")
ALIVE_SECONDS = 5  # between two signs of life on an idle connection
_known_hosts_lock = threading.Lock()


class HostError(Exception):
    """Why a host could not be used, in one line."""


class CommandResult(NamedTuple):
    code: int
    out: str
    err: str


class SshLogin(NamedTuple):
    """How to be let in; `password` may be empty."""

    password: str
    known_hosts: Path
    accept_new: bool
    seconds: float

    def __repr__(self) -> str:
        return "Login(...)"


class Connection(Protocol):
    def run(self, words: list[str], stdin: str, seconds: float) -> CommandResult:
        """Runs a command in the home of the account."""
        ...

    def put(self, files: dict[str, Path]) -> None:
        """Copies files of this machine; names on the host are relative to the home."""
        ...

    def host_keys(self) -> list[str]:
        """Type and base64 of the keys by which this host proves who it is."""
        ...

    def close(self) -> None: ...


class Local:
    """This machine."""

    def run(self, words: list[str], stdin: str, seconds: float) -> CommandResult:
        environment = {k: v for k, v in os.environ.items() if k not in SECRETS}
        try:
            done = subprocess.run(
                words, input=stdin, capture_output=True, text=True, timeout=seconds, cwd=Path.home(), env=environment
            )
        except subprocess.TimeoutExpired:
            raise HostError(f"{words[0]} did not end within {seconds:.0f} s") from None
        except OSError as error:
            return CommandResult(127, "", f"{words[0]}: {error.strerror}")
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def put(self, files: dict[str, Path]) -> None:
        raise HostError("this machine runs the code of this checkout; nothing is copied")

    def host_keys(self) -> list[str]:
        return [" ".join(path.read_text().split()[:2]) for path in Path("/etc/ssh").glob("ssh_host_*_key.pub")]

    def close(self) -> None:
        pass


class Remote:
    """A host behind ssh."""

    def __init__(self, host: Host, login: SshLogin) -> None:
        self._client = _connect(host, login)
        self._transport = self._client.get_transport()
        assert self._transport is not None
        self._transport.set_keepalive(ALIVE_SECONDS)

    def run(self, words: list[str], stdin: str, seconds: float) -> CommandResult:
        command = shlex.join(words)
        try:
            channel = self._transport.open_session(timeout=seconds)
            with contextlib.closing(channel):
                channel.settimeout(seconds)
                channel.exec_command(command)
                channel.sendall(stdin.encode())
                channel.shutdown_write()
                out = _read(channel.makefile("rb"))
                err = _read(channel.makefile_stderr("rb"))
                return CommandResult(channel.recv_exit_status(), out, err)
        except (paramiko.SSHException, OSError, EOFError) as error:
            if isinstance(error, TimeoutError) or "Timeout" in str(error):
                raise HostError(
                    f"no answer to a command within {seconds:.0f} s: cut off, stopped, or overloaded"
                ) from None
            raise HostError(f"the connection broke: {_first_line(error)}") from None

    def put(self, files: dict[str, Path]) -> None:
        try:
            with self._client.open_sftp() as sftp:
                made: set[str] = set()
                for name, path in files.items():
                    _make_folders(sftp, name.rpartition("/")[0], made)
                    sftp.put(str(path), f"{name}.new")
                    sftp.chmod(f"{name}.new", path.stat().st_mode & 0o777)
                    sftp.posix_rename(f"{name}.new", name)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostError(f"copying failed: {_first_line(error)}") from None

    def host_keys(self) -> list[str]:
        key = self._transport.get_remote_server_key()
        return [f"{key.get_name()} {key.get_base64()}"]

    def close(self) -> None:
        self._client.close()


def _read(file: paramiko.channel.ChannelFile) -> str:
    return file.read().decode(errors="replace")


def _make_folders(sftp: paramiko.SFTPClient, folder: str, made: set[str]) -> None:
    if not folder or folder in made or folder == "/":
        return
    made.add(folder)
    try:
        sftp.stat(folder)
    except FileNotFoundError:
        _make_folders(sftp, folder.rpartition("/")[0], made)
        with contextlib.suppress(OSError):  # another was quicker; else the file in it says so
            sftp.mkdir(folder)


class _KnownHosts(paramiko.MissingHostKeyPolicy):
    """For a host that known_hosts does not have."""

    def __init__(self, login: SshLogin) -> None:
        self._login = login

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        if not self._login.accept_new:
            raise HostError(
                f"unknown host key ({key.get_name()} {key.fingerprint}); not in {self._login.known_hosts}; "
                "--accept_new_host_keys learns it"
            )
        with _known_hosts_lock:
            path = self._login.known_hosts
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(f"{hostname} {key.get_name()} {key.get_base64()}\n")


def _connect(host: Host, login: SshLogin) -> paramiko.SSHClient:
    """Keys first; a connection of its own for the password, since a server counts every key that it refuses."""
    try:
        return _try(host, login, None)
    except (paramiko.AuthenticationException, paramiko.PasswordRequiredException, _NoKeys):
        if not login.password:
            raise HostError(
                f"does not let {host.user!r} in: no key of ours is accepted, and there is no password for it"
            ) from None
    try:
        return _try(host, login, login.password)
    except paramiko.AuthenticationException:
        raise HostError(f"does not let {host.user!r} in: neither a key of ours nor the password is accepted") from None


class _NoKeys(Exception):
    """There was nothing to try."""


def _try(host: Host, login: SshLogin, password: str | None) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    try:
        if login.known_hosts.exists():
            client.load_system_host_keys(str(login.known_hosts))  # "system": never written back
    except (paramiko.SSHException, OSError, ValueError) as error:
        raise HostError(f"{login.known_hosts}: {_first_line(error)}") from None
    client.set_missing_host_key_policy(_KnownHosts(login))
    keys = password is None
    key_file = str(Path(host.key_file).expanduser()) if host.key_file and keys else None
    wait = login.seconds
    try:
        client.connect(
            host.ip, host.port, host.user, password=password, key_filename=key_file, allow_agent=keys, look_for_keys=keys,
            timeout=wait, banner_timeout=wait, auth_timeout=wait, channel_timeout=wait,
        )  # fmt: skip
        return client
    except BaseException as error:
        client.close()
        raise _host_error(error, host, wait) from None


def _host_error(error: BaseException, host: Host, wait: float) -> BaseException:
    """What the library says, in the words of the person who has to do something."""
    match error:
        case paramiko.AuthenticationException() if "timeout" in str(error).lower():
            return HostError(f"accepts the connection, but does not let anybody in within {wait:.0f} s")
        case HostError() | paramiko.AuthenticationException() | paramiko.PasswordRequiredException():
            return error
        case paramiko.BadHostKeyException():
            name = host.ip if host.port == 22 else f"[{host.ip}]:{host.port}"
            return HostError(
                f"its host key has CHANGED: another machine, or an attack; if you know why: ssh-keygen -R '{name}'"
            )
        case socket.gaierror():
            return HostError("its name does not resolve")
        case TimeoutError():
            return HostError(f"no answer within {wait:.0f} s: down, cut off, or behind a firewall")
        case paramiko.ssh_exception.NoValidConnectionsError() | ConnectionRefusedError():
            reasons = (
                list(error.errors.values())
                if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError)
                else [error]
            )
            if any(isinstance(reason, ConnectionRefusedError) for reason in reasons):
                return HostError(f"refuses connections to port {host.port}: no sshd there")
            return HostError(f"cannot be reached: {_first_line(reasons[0])}")
        case paramiko.SSHException() if "No authentication methods" in str(error):
            return _NoKeys()
        case paramiko.SSHException() if any(
            word in str(error) for word in ("banner", "No existing session", "Timeout")
        ):
            return HostError(f"accepts the connection, but does not answer as SSH within {wait:.0f} s")
        case paramiko.SSHException() | OSError() | EOFError() | ValueError():
            return HostError(_first_line(error))
    return error


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def connect(host: Host, login: SshLogin) -> Connection:
    return Local() if host.local else Remote(host, login)
