"""The gateway of a learner: accepts connections from the network, and passes on those with the run's certificate.

A process of its own, so that floods, idle connections and exhausted descriptors meet it and not the learner. It speaks
mutual TLS to the network (OpenSSL, through Python's ssl) and copies what arrives, decrypted, to the learner's unix
socket. Before a peer has proved that it has the certificate, nothing that it sends gets further than OpenSSL, and it
costs a bounded amount: `MAX_STRANGERS` connections of `HANDSHAKE_SECONDS` each. The learner starts it and restarts it
(mlma/transport/listening.py). Imports nothing heavy.
"""

from __future__ import annotations

import collections
import json
import os
import resource
import selectors
import socket
import ssl
import sys
import time

from mlma.transport.certificates import tls_context
from mlma.transport.link import Link
from mlma.utils.child_process import setup_child_process

HANDSHAKE_SECONDS = 10.0
MAX_STRANGERS = 256  # connections without a finished handshake; beyond, the oldest is closed
MAX_LINKS = 4096
RESERVED_DESCRIPTORS = 32  # for what is neither stranger nor link
REPORT_SECONDS = 10.0  # between two lines about refused connections


class Gateway:
    """Serves until the process ends."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext, learner_socket: str) -> None:
        self._listener, self._context, self._learner_socket = listener, context, learner_socket
        self._selector = selectors.DefaultSelector()
        self._strangers: collections.OrderedDict[Link, float] = collections.OrderedDict()  # -> when they connected
        self._links: set[Link] = set()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * MAX_LINKS + MAX_STRANGERS + RESERVED_DESCRIPTORS
        limit = max(soft, wanted if hard == resource.RLIM_INFINITY else min(hard, wanted))
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        self._max_strangers = max(8, min(MAX_STRANGERS, (limit - RESERVED_DESCRIPTORS) // 4))
        self._max_links = max(8, min(MAX_LINKS, (limit - RESERVED_DESCRIPTORS - self._max_strangers) // 2))
        self._refused: collections.Counter[str] = collections.Counter()
        self._reported_at, self._paused_until = 0.0, 0.0
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        """Accepts and copies, forever."""
        while True:
            for key, events in self._selector.select(timeout=1.0):
                link = key.data
                if link is None:
                    self._accept()
                else:
                    link.on_event(key.fileobj, events)
                    self._settle(link)
            self._expire(time.monotonic())
            self._report()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no descriptors left
            self._refuse(error.strerror or "accept")
            self._close_oldest()
            time.sleep(0.01)
            return
        if len(self._links) >= self._max_links:
            connection.close()
            self._refuse("too many connections")
            return
        if len(self._strangers) >= self._max_strangers:
            self._close_oldest()
            self._refuse("too many at once without a certificate")
        try:
            link = Link(self._selector, connection, self._context, server=True)
        except OSError as error:  # it is gone already
            connection.close()
            self._refuse(error.strerror or "closed")
            return
        self._strangers[link] = time.monotonic()

    def _connect_learner(self, link: Link) -> bool:
        try:
            plain = socket.socket(socket.AF_UNIX)
        except OSError as error:
            link.close()
            self._refuse(error.strerror or "socket")
            return False
        try:
            plain.connect(self._learner_socket)
        except OSError:  # the learner does not listen yet
            plain.close()
            link.close()
            return False
        link.attach(plain)
        return True

    def _settle(self, link: Link) -> None:
        """Moves a link to where it belongs after an event."""
        if link.closed:
            if self._strangers.pop(link, None) is not None and link.problem:
                self._refuse(link.problem)
            self._links.discard(link)
        elif link.established and self._strangers.pop(link, None) is not None and self._connect_learner(link):
            self._links.add(link)

    def _close_oldest(self) -> None:
        if self._strangers:
            self._strangers.popitem(last=False)[0].close()

    def _expire(self, now: float) -> None:
        while self._strangers:
            oldest = next(iter(self._strangers.values()))
            if now - oldest < HANDSHAKE_SECONDS:
                return
            self._close_oldest()
            self._refuse("no handshake in time")

    def _refuse(self, reason: str) -> None:
        self._refused[reason if len(self._refused) < 32 else "other"] += 1

    def _report(self) -> None:
        """Tells the learner, which logs and counts."""
        if self._refused and time.monotonic() - self._reported_at > REPORT_SECONDS:
            self._reported_at = time.monotonic()
            print(json.dumps(self._refused), flush=True)
            self._refused.clear()


def main() -> None:
    """Reads its orders from standard input: the listening descriptor, the learner's socket and the token."""
    setup_child_process()
    orders = json.loads(sys.stdin.readline())
    listener = socket.socket(fileno=orders["listener"])
    try:
        Gateway(listener, tls_context(orders["token"], server=True), orders["socket"]).run()
    except BrokenPipeError:  # the learner is gone
        os._exit(0)


if __name__ == "__main__":
    main()
