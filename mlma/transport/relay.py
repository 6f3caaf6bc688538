"""The actor's end of the encrypted channel: a private unix socket whose bytes travel to a learner's gateway by TLS.

TensorFlow's client speaks plain gRPC only. It connects to the socket, which exists until then, in a folder that only
this user can open. Not here: the gateway (mlma/transport/gateway.py).
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time

from mlma.transport.addresses import Address, open_connection
from mlma.transport.certificates import tls_context
from mlma.transport.link import Link
from mlma.transport.protocol import HandshakeRefusedError, LearnerLostError
from mlma.utils.own_files import socket_folder

CONNECT_SECONDS = 10.0
POLL_SECONDS = 1.0
ACCEPT_SECONDS = 60.0  # for this process's own client to connect


class Relay:
    """A connection to the gateway at `address`; `target` is the address for TensorFlow's client."""

    def __init__(self, address: Address, token: str) -> None:
        """LearnerLostError if nobody answers there, HandshakeRefusedError if the gateway belongs to another run."""
        self._selector = selectors.DefaultSelector()
        self._link = self._connect(address, token)
        self._closing = threading.Event()
        self._local = contextlib.ExitStack()  # what exists until the client has connected: one client, one connection
        try:
            path = f"{self._local.enter_context(socket_folder())}/learner"
            self._listener = self._local.enter_context(socket.socket(socket.AF_UNIX))
            self._listener.bind(path)
            self._listener.listen(1)
        except (OSError, ValueError) as error:  # a full disk: connecting again may help
            self._local.close()
            self._link.close()
            raise LearnerLostError(f"{address}: no socket for the client: {error}") from None
        self.target = f"unix:{path}"
        threading.Thread(target=self._run, daemon=True, name="relay").start()

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._link.closed

    def close(self) -> None:
        """Ends the connection, within POLL_SECONDS."""
        self._closing.set()

    def _connect(self, address: Address, token: str) -> Link:
        try:
            connection = open_connection(address, CONNECT_SECONDS)
        except OSError as error:
            raise LearnerLostError(f"{address}: {error.strerror or error}") from None
        link = Link(self._selector, connection, tls_context(token, server=False), server=False)
        end = time.monotonic() + CONNECT_SECONDS
        while not (link.established or link.closed) and time.monotonic() < end:
            self._handle_events()
        if link.established:
            return link
        link.close()
        if "CERTIFICATE_VERIFY_FAILED" in link.problem:
            raise HandshakeRefusedError(f"{address}: the token is not the learner's")
        raise LearnerLostError(f"{address}: {link.problem or 'no TLS handshake in time'}")

    def _handle_events(self) -> None:
        for key, events in self._selector.select(timeout=POLL_SECONDS):
            key.data.on_event(key.fileobj, events)

    def _run(self) -> None:
        self._listener.settimeout(ACCEPT_SECONDS)
        with self._local:
            try:
                plain, _ = self._listener.accept()
                self._link.attach(plain)
            except OSError:
                self._link.close()
        while not (self._link.closed or self._closing.is_set()):
            self._handle_events()
        self._link.close()
        self._selector.close()
