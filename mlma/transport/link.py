"""A link: copies bytes between a plain and an encrypted socket, both ways, until either end closes.

Links of one process share a selector and a thread. What one side does not take yet is kept, at most `CHUNK_BYTES` and
some of it encrypted, and nothing more is read from the other side meanwhile. TLS runs on memory, not on the socket:
one system call reads many records. Imports nothing heavy. Not here: who accepts (mlma/transport/gateway.py), who
connects (mlma/transport/relay.py).
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
from collections.abc import Callable
from typing import Any

CHUNK_BYTES = 2**18
ATTACHED = b"+"
KEEPALIVE_SECONDS = 15
DEAD_PEER_MILLISECONDS = 60_000  # data that is not acknowledged for as long means that the peer is gone


class Link:
    """One connection. Established once the peer has proved that it has the run's certificate; only then it may be
    attached to a plain socket, and only then anything is copied.

    The gateway's end says that it is attached, and the actor's end is established only then: a learner that does not
    serve yet is noticed at once.
    """

    def __init__(
        self, selector: selectors.BaseSelector, encrypted: socket.socket, context: ssl.SSLContext, server: bool
    ) -> None:
        self._selector, self._encrypted, self._is_server = selector, encrypted, server
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._plain: socket.socket | None = None
        self._to_plain, self._to_encrypted = memoryview(b""), memoryview(b"")
        self._interests: dict[socket.socket, int] = {}
        self.established = self.closed = self._ending = self._shook_hands = False
        self.problem = ""  # why the link ended before it was established
        _tune(encrypted)
        encrypted.setblocking(False)
        self._guard(self._advance)

    def attach(self, plain: socket.socket) -> None:
        """Copies from and to this socket from now on."""
        assert self.established
        plain.setblocking(False)
        self._plain = plain
        if self._is_server:
            self._tls.write(ATTACHED)
        self._guard(self._advance)

    def on_event(self, ready: Any, events: int) -> None:
        """Carries out what the selector has found this socket ready for."""
        if not self.closed:
            self._guard(lambda: self._handle(ready, events))

    def close(self) -> None:
        """Closes both sockets."""
        if self.closed:
            return
        self.closed = True
        for end in list(self._interests):
            self._selector.unregister(end)
        self._interests.clear()
        self._encrypted.close()
        if self._plain:
            self._plain.close()

    def _guard(self, action: Callable[[], object]) -> None:
        try:
            action()
            self._update_interests()
        except (OSError, ssl.SSLError, MemoryError) as error:
            if not self.established:
                with contextlib.suppress(OSError):  # the alert that says why
                    self._encrypted.send(self._outgoing.read())
                self.problem = getattr(error, "reason", None) or str(error) or type(error).__name__
            self.close()

    def _handle(self, ready: Any, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send()
        if not events & selectors.EVENT_READ:
            return
        if ready is self._encrypted:
            data = self._encrypted.recv(CHUNK_BYTES)
            self._incoming.write(data)
            self._advance()
            if not data:
                self._end("the peer closed the connection")
        elif self._plain:
            data = self._plain.recv(CHUNK_BYTES)
            if data:
                self._tls.write(data)
            else:
                self._end("")
            self._send()

    def _advance(self) -> None:
        """Handshake, then decryption, as far as the bytes that have arrived go."""
        if not self.established:
            try:
                self._establish()
            except ssl.SSLWantReadError:
                self._send()
                return
            self._send()
        if not self._plain:
            return
        pieces = [bytes(self._to_plain)]
        with contextlib.suppress(ssl.SSLWantReadError):
            while piece := self._tls.read(CHUNK_BYTES):
                pieces.append(piece)
            self._end("")  # the peer said that it is done
        self._to_plain = memoryview(b"".join(pieces))
        self._send()

    def _establish(self) -> None:
        if not self._shook_hands:
            self._tls.do_handshake()
            self._shook_hands = True
        if not self._is_server and self._tls.read(len(ATTACHED)) != ATTACHED:
            raise OSError("the learner does not serve yet")
        self.established = True

    def _end(self, problem: str) -> None:
        """No more will be read; what has been is still sent."""
        if not self.established:
            raise OSError(problem or "closed")
        self._ending = True

    def _send(self) -> None:
        if self._outgoing.pending:
            self._to_encrypted = memoryview(bytes(self._to_encrypted) + self._outgoing.read())
        self._to_encrypted = _send_some(self._encrypted, self._to_encrypted)
        if self._plain:
            self._to_plain = _send_some(self._plain, self._to_plain)

    def _update_interests(self) -> None:
        if self._ending and not self._to_plain and not self._to_encrypted:
            self.close()
            return
        wants_more = not self.established or bool(self._plain and not self._to_plain and not self._ending)
        self._register(self._encrypted, wants_more, bool(self._to_encrypted))
        if self._plain:
            self._register(self._plain, not self._to_encrypted and not self._ending, bool(self._to_plain))

    def _register(self, end: socket.socket, read: bool, write: bool) -> None:
        events = selectors.EVENT_READ * read | selectors.EVENT_WRITE * write
        if events == self._interests.get(end, 0):
            return
        if not events:
            self._selector.unregister(end)
            del self._interests[end]
            return
        if end in self._interests:
            self._selector.modify(end, events, self)
        else:
            self._selector.register(end, events, self)
        self._interests[end] = events


def _send_some(end: socket.socket, data: memoryview) -> memoryview:
    """Sends as much as the socket takes at once. Returns the rest."""
    while data:
        try:
            data = data[end.send(data) :]
        except BlockingIOError:
            break
    return data


def _tune(connection: socket.socket) -> None:
    """No delay for small messages, and a dead peer is noticed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
        connection.setsockopt(socket.IPPROTO_TCP, option, KEEPALIVE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MILLISECONDS)
