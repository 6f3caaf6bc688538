"""One connection to one host: runs commands and copies files. This machine has the same interface, without SSH.

Every wait has a time limit, and every failure becomes a `HostError` in one line. Not here: how a connection is opened
(mlma/cluster/remote/ssh_login.py), many hosts at once (mlma/cluster/remote/host_pool.py).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, Protocol, cast

import paramiko

from mlma.cluster.planning.hosts import Host
from mlma.cluster.remote.ssh_login import HostError, SshLogin, first_line, open_client

SECRETS = ("MLMA_TOKEN", "MLMA_SSH_PASSWORD", "MLMA_PARENT")  # environment variables that commands must not inherit
KEEPALIVE_SECONDS = 5


class CommandResult(NamedTuple):
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str


class Connection(Protocol):
    """An open connection to a host."""

    def run(self, argv: list[str], stdin: str, seconds: float) -> CommandResult:
        """Runs a command in the home directory of the account."""
        ...

    def put(self, folder: str, files: dict[str, Path], seconds: float) -> None:
        """Copies local files into a folder on the host, by their names there, in one stream."""
        ...

    def read(self, argv: list[str], stdin: str | None, seconds: float) -> contextlib.AbstractContextManager[IO[bytes]]:
        """The output of a command as a stream. `seconds` is the longest pause in it.

        Without `stdin`, the standard input of the command stays open as long as the stream.
        """
        ...

    def open_port(self, port: int, seconds: float) -> paramiko.Channel:
        """A connection to a port of the host's loopback address."""
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

    def put(self, folder: str, files: dict[str, Path], seconds: float) -> None:
        """Never needed: local workers run the code of this checkout."""
        raise HostError("this machine runs the code of this checkout; no files are copied to it")

    def read(self, argv: list[str], stdin: str | None, seconds: float) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Never needed: the files of this machine are here."""
        raise HostError("the files of this machine are here already")

    def open_port(self, port: int, seconds: float) -> paramiko.Channel:
        """Never needed: ports of this machine are here."""
        raise HostError("the ports of this machine are here already")

    def host_keys(self) -> list[str]:
        """See Connection."""
        return [" ".join(path.read_text().split()[:2]) for path in Path("/etc/ssh").glob("ssh_host_*_key.pub")]

    def close(self) -> None:
        """See Connection."""


class SshConnection:
    """A host behind SSH."""

    def __init__(self, host: Host, login: SshLogin, accepted: Callable[[], None]) -> None:
        self._client = open_client(host, login, accepted)
        self._transport = self._client.get_transport()
        assert self._transport is not None
        self._transport.set_keepalive(KEEPALIVE_SECONDS)

    def run(self, argv: list[str], stdin: str, seconds: float) -> CommandResult:
        """See Connection."""
        with self._command(argv, seconds) as channel:
            channel.sendall(stdin.encode())
            channel.shutdown_write()
            stdout = _read(channel.makefile("rb"))
            stderr = _read(channel.makefile_stderr("rb"))
            return CommandResult(channel.recv_exit_status(), stdout, stderr)

    def put(self, folder: str, files: dict[str, Path], seconds: float) -> None:
        """See Connection. One tar stream, since each file on its own would cost several round trips."""
        argv = ["sh", "-c", 'mkdir -p -- "$1" && cd -- "$1" && exec tar -xzof -', "sh", folder]
        with self._command(argv, seconds) as channel:
            # An error of tar is more telling than that the channel is closed.
            with contextlib.suppress(OSError):
                with channel.makefile_stdin("wb") as stdin:
                    write_archive(cast(IO[bytes], stdin), files)
                channel.shutdown_write()
            errors = _read(channel.makefile_stderr("rb")).strip()
            code = channel.recv_exit_status()
        if code:
            raise HostError(f"copying files failed: {errors.splitlines()[-1] if errors else f'code {code}'}")

    @contextlib.contextmanager
    def read(self, argv: list[str], stdin: str | None, seconds: float) -> Iterator[IO[bytes]]:
        """See Connection."""
        with self._command(argv, seconds) as channel:
            if stdin is not None:
                channel.sendall(stdin.encode())
                channel.shutdown_write()
            with channel.makefile("rb") as stdout:
                yield cast(IO[bytes], stdout)

    def open_port(self, port: int, seconds: float) -> paramiko.Channel:
        """See Connection."""
        addresses = ("127.0.0.1", port), ("127.0.0.1", 0)
        try:
            return self._transport.open_channel("direct-tcpip", *addresses, timeout=seconds)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostError(f"port {port} cannot be reached through SSH: {first_line(error)}") from None

    @contextlib.contextmanager
    def _command(self, argv: list[str], seconds: float) -> Iterator[paramiko.Channel]:
        """A channel to a running command. Errors and pauses of more than `seconds` become a HostError."""
        try:
            channel = self._transport.open_session(timeout=seconds)
            with contextlib.closing(channel):
                channel.settimeout(seconds)
                channel.exec_command(shlex.join(argv))
                yield channel
        except (paramiko.SSHException, OSError, EOFError) as error:
            if isinstance(error, TimeoutError) or "Timeout" in str(error):
                raise HostError(
                    f"no answer to a command within {seconds:.0f} s: host unreachable, suspended, or overloaded"
                ) from None
            raise HostError(f"connection lost: {first_line(error)}") from None

    def host_keys(self) -> list[str]:
        """See Connection."""
        key = self._transport.get_remote_server_key()
        return [f"{key.get_name()} {key.get_base64()}"]

    def close(self) -> None:
        """See Connection."""
        self._client.close()


def connect(host: Host, login: SshLogin, accepted: Callable[[], None]) -> Connection:
    """Opens a connection; HostError if that fails. Calls `accepted` once the host accepts a connection."""
    return LocalConnection() if host.local else SshConnection(host, login, accepted)


def write_archive(stream: IO[bytes], files: dict[str, Path]) -> None:
    """A compressed tar archive of the files by name, without owners and times of this machine."""
    with tarfile.open(fileobj=stream, mode="w|gz", format=tarfile.PAX_FORMAT) as archive:
        for name, path in files.items():
            with path.open("rb") as file:
                member = archive.gettarinfo(arcname=name, fileobj=file)
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                archive.addfile(member, file)


def _read(file: paramiko.channel.ChannelFile) -> str:
    return file.read().decode(errors="replace")
