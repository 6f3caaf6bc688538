"""The actor's end of the encrypted channel: a private unix socket whose bytes travel to a learner's gateway by TLS.

TensorFlow's client speaks plain gRPC only. It connects to the socket, which exists until then, in a folder that only
this user can open. Not here: the gateway (mlma/transport/gateway.py).
"""

from __future__ import annotations

import selectors
import shutil
import socket
import tempfile
import threading
import time

from mlma.transport.addresses import Address
from mlma.transport.certificates import tls_context
from mlma.transport.link import Link
from mlma.transport.protocol import HandshakeRefusedError, LearnerLostError

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
        self._folder = tempfile.mkdtemp(prefix="mlma-")  # mode 0700
        self.target = f"unix:{self._folder}/learner"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder}/learner")
        self._listener.listen(1)
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
            connection = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS)
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
        try:
            plain, _ = self._listener.accept()
            self._link.attach(plain)
        except OSError:
            self._link.close()
        finally:
            self._listener.close()
            shutil.rmtree(self._folder, ignore_errors=True)  # one client, one connection
        while not (self._link.closed or self._closing.is_set()):
            self._handle_events()
        self._link.close()
        self._selector.close()
