"""The actor's end of the transport: handshake, put, fetch, infer.

Not here: the learner's end (mlma/transport/server.py).
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.experimental.rpc.rpc_ops import GrpcClient

from mlma.transport.addresses import Address, open_connection
from mlma.transport.auth import token_digest
from mlma.transport.messages import pack, unpack
from mlma.transport.protocol import (
    ANSWER_SPECS,
    BUSY,
    FAREWELL,
    REFUSED,
    TRAINING_OVER,
    VERSION_UNAVAILABLE,
    HandshakeRefusedError,
    LearnerLostError,
)
from mlma.transport.relay import CONNECT_SECONDS, Relay

MAX_FETCH_ATTEMPTS = 3
FAREWELL_SECONDS = 5.0  # in which a learner that is still there answers
ROOM_SECONDS = 86_400.0  # for which a learner that answers other calls may have no room for a message
ATTEMPT_SECONDS = 0.5  # after which a failure of the sender is noticed
CHECKS_PER_TIMEOUT = 4  # of a learner that has no room, within the time that a call may take
NO_VERSION = -1  # which no learner has, so a fetch of it is answered at once

Result = TypeVar("Result")


class Client:
    """A connection to the learner. `put` returns before the learner has the message, so acting continues meanwhile.

    At most one message is in flight and one more waits. LearnerLostError if a call fails or takes longer than
    `timeout_seconds`. `put` and `infer` may wait longer for room in a learner that answers other calls meanwhile: with
    many actors, a round of messages takes a slow learner minutes.
    """

    def __init__(self, address: str, token: str, timeout_seconds: float, relay: Relay | None = None) -> None:
        """`relay` is what makes `address` lead to the learner, if anything; it is closed with this client."""
        self._relay = relay
        self._secret = token_digest(token)
        self._outbox: queue.Queue[tuple[str, bytes] | None] = queue.Queue(1)  # method, message
        self._replies: queue.Queue[tuple[bytes, float]] = queue.Queue(1)
        self._failure: Exception | None = None
        # Not rpc.Client.create: it first requests the list of methods, which the server only answers between blocked
        # puts. The name must be unique: clients with the same name share a connection, and closing one breaks the
        # other's calls.
        name, timeout_ms = f"mlma-{uuid.uuid4().hex}", int(timeout_seconds * 1000)
        self._check_seconds = timeout_seconds / CHECKS_PER_TIMEOUT
        self._client = GrpcClient(address, name, list_registered_methods=False, timeout_in_ms=timeout_ms)
        threading.Thread(target=self._send, daemon=True, name="sender").start()

    def _call(self, method: str, *args: Any, timeout_seconds: float = 0.0) -> Any:
        """The answer; 0 seconds are the client's time limit."""
        tensors, timeout_ms = [tf.constant(arg) for arg in args], int(timeout_seconds * 1000)
        try:
            return self._client.call(method, tensors, ANSWER_SPECS[method], timeout_ms).get_value()
        except tf.errors.OpError as error:
            failure = type(error).__name__
        # Raised outside the handler, so that the traceback, and with it the call's future, is freed now. The future
        # deletes itself with an operation, which would otherwise end up in any graph being traced when Python collects
        # it.
        raise LearnerLostError(f"{method}: {failure}")

    def handshake(self, request: dict[str, Any]) -> dict[str, Any]:
        """The learner's answer; it contains "finished" if training is over. HandshakeRefusedError if it refuses."""
        answer, _ = unpack(self._call("handshake", self._secret, pack(request)).numpy())
        if "refused" in answer:
            raise HandshakeRefusedError(answer["refused"])
        if "ending" in answer:
            raise LearnerLostError("handshake: the learner ends, but training is not over")
        return answer

    def say_farewell(self) -> None:
        """Tells the learner that this actor knows that training is over, for which the learner waits before it ends."""

        def call() -> None:
            with contextlib.suppress(LearnerLostError):  # it has ended: it waits for a limited time
                self._call("handshake", self._secret, pack({FAREWELL: True}))

        thread = threading.Thread(target=call, daemon=True)  # a call to a learner that is gone may take its time limit
        thread.start()
        thread.join(FAREWELL_SECONDS)

    def fetch(self, have: int, before_part: Callable[[], None] = lambda: None) -> tuple[int, bytes | None]:
        """(version, weights), never mixed from two versions; weights is None if there is nothing newer than `have`.

        Calls `before_part` before each of the parts in which they travel.
        """
        for _ in range(MAX_FETCH_ATTEMPTS):
            version, data = self._fetch_latest(have, before_part)
            if version != VERSION_UNAVAILABLE:
                return version, data
        return have, None  # the learner publishes faster than the network transfers; the next fetch may succeed

    def _fetch_latest(self, have: int, before_part: Callable[[], None]) -> tuple[int, bytes | None]:
        data: list[bytes] = []
        version, count = have, 1
        while len(data) < count:
            before_part()
            answer = self._call("fetch", self._secret, np.int64(version), np.int64(len(data)))
            version, count = int(answer[0]), int(answer[1])
            if version in (VERSION_UNAVAILABLE, TRAINING_OVER) or version == have:
                return version, None
            data.append(answer[2].numpy())
        return version, b"".join(data)

    def put(self, message: bytes, on_wait: Callable[[], None] = lambda: None) -> None:
        """Hands a message to the sender; waits until the previous one was accepted, calling `on_wait` periodically."""
        self._wait(functools.partial(self._outbox.put, ("put", message)), on_wait)

    def infer(self, request: bytes, on_wait: Callable[[], None] = lambda: None) -> tuple[bytes, float]:
        """(reply, seconds of the call in which the learner had no room for trajectories); `on_wait` as in `put`."""
        self._wait(functools.partial(self._outbox.put, ("infer", request)), on_wait)
        return self._wait(self._replies.get, on_wait)

    def _wait(self, attempt: Callable[..., Result], on_wait: Callable[[], None]) -> Result:
        """Attempts until there is room, or something to get, for as long as the learner answers."""
        checked = time.monotonic()
        while True:
            if self._failure:
                raise self._failure
            try:
                return attempt(timeout=ATTEMPT_SECONDS)
            except (queue.Full, queue.Empty):
                on_wait()
            if time.monotonic() - checked > self._check_seconds:
                self._call("fetch", self._secret, np.int64(NO_VERSION), np.int64(1))
                checked = time.monotonic()

    def _send(self) -> None:
        while (item := self._outbox.get()) is not None and not self._failure:
            method, message = item
            try:
                answer = self._call(method, self._secret, message, timeout_seconds=ROOM_SECONDS)
                if method == "infer":
                    self._replies.put((answer[0].numpy(), float(answer[1])))
                elif int(answer) == REFUSED:
                    raise HandshakeRefusedError("the token is not the learner's")
                elif int(answer) == BUSY:
                    raise LearnerLostError("put: too many messages wait in the learner")
            except (LearnerLostError, HandshakeRefusedError) as error:
                self._failure = error
                return

    def close(self) -> None:
        """Ends the sender, after the message in flight; a later `put` raises LearnerLostError."""
        self._failure = self._failure or LearnerLostError("closed")
        with contextlib.suppress(queue.Full):
            self._outbox.put_nowait(None)
        if self._relay:
            self._relay.close()


def connect(address: Address, token: str, timeout_seconds: float) -> Client:
    """A client of the learner at `address`. LearnerLostError at once if none serves there; see also Relay."""
    if address.channel == "tls":
        relay = Relay(address, token)
        return Client(relay.target, token, timeout_seconds, relay)
    _check_server(address)
    return Client(str(address), token, timeout_seconds)


def _check_server(address: Address) -> None:
    """A server speaks first. The end of a tunnel to a learner that does not serve yet closes the connection; a call
    would wait for its whole time limit then."""
    try:
        with open_connection(address, CONNECT_SECONDS) as probe:
            if probe.recv(1):
                return
            reason = "no learner serves there yet"
    except OSError as error:
        reason = error.strerror or str(error)
    raise LearnerLostError(f"{address}: {reason}")
