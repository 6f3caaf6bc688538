"""A port of this machine that leads to one of a host, through a connection that is open anyway."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver

import paramiko

from mlma.cluster.remote.ssh import Connection
from mlma.cluster.remote.ssh_login import HostError

CHUNK_BYTES = 65536


class ForwardedPort(socketserver.ThreadingTCPServer):
    """Listens at a free port of the loopback address; each connection becomes one to `port` on the host."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, connection: Connection, port: int, seconds: float) -> None:
        self.connection, self.host_port, self.seconds = connection, port, seconds
        super().__init__(("127.0.0.1", 0), _Forward)


class _Forward(socketserver.BaseRequestHandler):
    server: ForwardedPort

    def handle(self) -> None:
        with contextlib.suppress(HostError, OSError):
            channel = self.server.connection.open_port(self.server.host_port, self.server.seconds)
            with contextlib.closing(channel):
                copy_both_ways(self.request, channel)


def copy_both_ways(here: socket.socket, there: paramiko.Channel) -> None:
    """Until one side has ended."""
    while True:
        for side in select.select([here, there], [], [])[0]:
            data = side.recv(CHUNK_BYTES)
            if not data:
                return
            (there if side is here else here).sendall(data)
