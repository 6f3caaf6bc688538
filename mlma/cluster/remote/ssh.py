"""One connection to one host: runs commands and copies files. This machine has the same interface, without SSH.

Every wait has a time limit, and every failure becomes a `HostError` in one line. The host's key must be in known_hosts.
Keys and agent are tried first, then the password, which is used inside the encrypted connection only. Not here: many
hosts at once (mlma/cluster/remote/host_pool.py).
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

from mlma.cluster.planning.hosts import Host

logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False  # its threads log tracebacks; failures become a HostError
SECRETS = ("MLMA_TOKEN", "MLMA_SSH_PASSWORD", "MLMA_PARENT")  # environment variables that commands must not inherit
KEEPALIVE_SECONDS = 5
_known_hosts_lock = threading.Lock()


class HostError(Exception):
    """Why a host could not be used, in one line."""


class CommandResult(NamedTuple):
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str


class SshLogin(NamedTuple):
    """How to log in. `password` may be empty."""

    password: str
    known_hosts: Path
    accept_new_host_keys: bool
    timeout: float  # seconds for each of connecting, the SSH greeting, and authentication

    def __repr__(self) -> str:
        return "SshLogin(...)"


class Connection(Protocol):
    """An open connection to a host."""

    def run(self, argv: list[str], stdin: str, seconds: float) -> CommandResult:
        """Runs a command in the home directory of the account."""
        ...

    def put(self, files: dict[str, Path]) -> None:
        """Copies local files. Names on the host are relative to the home directory."""
        ...

    def host_keys(self) -> list[str]:
        """Type and base64 of the host's public keys."""
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...


class LocalConnection:
    """This machine, without SSH."""

    def run(self, argv: list[str], stdin: str, seconds: float) -> CommandResult:
        """See Connection."""
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        try:
            result = subprocess.run(
                argv, input=stdin, capture_output=True, text=True, timeout=seconds, cwd=Path.home(), env=environment
            )
        except subprocess.TimeoutExpired:
            raise HostError(f"{argv[0]} did not end within {seconds:.0f} s") from None
        except OSError as error:
            return CommandResult(127, "", f"{argv[0]}: {error.strerror}")
        return CommandResult(result.returncode, result.stdout, result.stderr)

    def put(self, files: dict[str, Path]) -> None:
        """Never needed: local workers run the code of this checkout."""
        raise HostError("this machine runs the code of this checkout; no files are copied to it")

    def host_keys(self) -> list[str]:
        """See Connection."""
        return [" ".join(path.read_text().split()[:2]) for path in Path("/etc/ssh").glob("ssh_host_*_key.pub")]

    def close(self) -> None:
        """See Connection."""


class SshConnection:
    """A host behind SSH."""

    def __init__(self, host: Host, login: SshLogin) -> None:
        self._client = _authenticate(host, login)
        self._transport = self._client.get_transport()
        assert self._transport is not None
        self._transport.set_keepalive(KEEPALIVE_SECONDS)

    def run(self, argv: list[str], stdin: str, seconds: float) -> CommandResult:
        """See Connection."""
        command = shlex.join(argv)
        try:
            channel = self._transport.open_session(timeout=seconds)
            with contextlib.closing(channel):
                channel.settimeout(seconds)
                channel.exec_command(command)
                channel.sendall(stdin.encode())
                channel.shutdown_write()
                stdout = _read(channel.makefile("rb"))
                stderr = _read(channel.makefile_stderr("rb"))
                return CommandResult(channel.recv_exit_status(), stdout, stderr)
        except (paramiko.SSHException, OSError, EOFError) as error:
            if isinstance(error, TimeoutError) or "Timeout" in str(error):
                raise HostError(
                    f"no answer to a command within {seconds:.0f} s: host unreachable, suspended, or overloaded"
                ) from None
            raise HostError(f"connection lost: {_first_line(error)}") from None

    def put(self, files: dict[str, Path]) -> None:
        """See Connection."""
        try:
            with self._client.open_sftp() as sftp:
                existing: set[str] = set()
                for name, path in files.items():
                    _make_folders(sftp, name.rpartition("/")[0], existing)
                    sftp.put(str(path), f"{name}.new")
                    sftp.chmod(f"{name}.new", path.stat().st_mode & 0o777)
                    sftp.posix_rename(f"{name}.new", name)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostError(f"copying files failed: {_first_line(error)}") from None

    def host_keys(self) -> list[str]:
        """See Connection."""
        key = self._transport.get_remote_server_key()
        return [f"{key.get_name()} {key.get_base64()}"]

    def close(self) -> None:
        """See Connection."""
        self._client.close()


def connect(host: Host, login: SshLogin) -> Connection:
    """Opens a connection; HostError if that fails."""
    return LocalConnection() if host.local else SshConnection(host, login)


def _read(file: paramiko.channel.ChannelFile) -> str:
    return file.read().decode(errors="replace")


def _make_folders(sftp: paramiko.SFTPClient, folder: str, existing: set[str]) -> None:
    if not folder or folder in existing or folder == "/":
        return
    existing.add(folder)
    try:
        sftp.stat(folder)
    except FileNotFoundError:
        _make_folders(sftp, folder.rpartition("/")[0], existing)
        with contextlib.suppress(OSError):  # it exists by now; any other error appears when a file is copied into it
            sftp.mkdir(folder)


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


def _authenticate(host: Host, login: SshLogin) -> paramiko.SSHClient:
    """Keys first. The password gets a connection of its own, since a server counts every key that it refuses."""
    try:
        return _open_client(host, login, None)
    except (paramiko.AuthenticationException, paramiko.PasswordRequiredException, _NoKeysError):
        if not login.password:
            raise HostError(
                f"authentication as {host.user!r} failed: no key was accepted, and no password is set"
            ) from None
    try:
        return _open_client(host, login, login.password)
    except paramiko.AuthenticationException:
        raise HostError(
            f"authentication as {host.user!r} failed: neither a key nor the password was accepted"
        ) from None


def _open_client(host: Host, login: SshLogin, password: str | None) -> paramiko.SSHClient:
    """With the password, or with keys if that is None."""
    client = paramiko.SSHClient()
    try:
        if login.known_hosts.exists():
            client.load_system_host_keys(str(login.known_hosts))  # "system": paramiko never writes the file
    except (paramiko.SSHException, OSError, ValueError) as error:
        raise HostError(f"{login.known_hosts}: {_first_line(error)}") from None
    client.set_missing_host_key_policy(_UnknownHostKeys(login))
    use_keys = password is None
    key_file = str(Path(host.key_file).expanduser()) if host.key_file and use_keys else None
    timeout = login.timeout
    try:
        client.connect(
            host.ip, host.port, host.user,
            password=password, key_filename=key_file, allow_agent=use_keys, look_for_keys=use_keys,
            timeout=timeout, banner_timeout=timeout, auth_timeout=timeout, channel_timeout=timeout,
        )  # fmt: skip
        return client
    except BaseException as error:
        client.close()
        raise _host_error(error, host, timeout) from None


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
        case paramiko.ssh_exception.NoValidConnectionsError():
            return _refused(list(error.errors.values()), host)
        case ConnectionRefusedError():
            return _refused([error], host)
        case paramiko.SSHException() if "No authentication methods" in str(error):
            return _NoKeysError()
        case paramiko.SSHException() if any(
            word in str(error) for word in ("banner", "No existing session", "Timeout")
        ):
            return HostError(f"accepts connections, but does not answer as SSH within {timeout:.0f} s")
        case paramiko.SSHException() | OSError() | EOFError() | ValueError():
            return HostError(_first_line(error))
    return error


def _refused(reasons: list[BaseException], host: Host) -> HostError:
    if any(isinstance(reason, ConnectionRefusedError) for reason in reasons):
        return HostError(f"connection to port {host.port} refused: no sshd there")
    return HostError(f"cannot be reached: {_first_line(reasons[0])}")


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), "") or type(error).__name__
