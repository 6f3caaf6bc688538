"""The wire: TensorFlow's distributed RPC between one learner and its actors. Four calls: handshake,
put, fetch; and infer, which takes what an actor sees and answers what it shall do.

Every message is one string tensor of at most wire.PART bytes, since the runtime refuses messages above 4 MiB: what is longer
travels in parts. A `put` waits in the learner while its inbox is full, which is the back-pressure. The token is compared
inside the graph in constant shape and time; without it nothing is accepted. Not here: what messages mean (mlma/wire.py),
where trajectories go (mlma/memory.py).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import queue
import stat
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.experimental.rpc.rpc_ops import GrpcClient

from mlma import wire
from mlma.addresses import is_address_here
from mlma.graph import graph

rpc = tf.distribute.experimental.rpc

INBOX = 2  # messages that wait beside those of blocked calls
FETCH_TRIES = 3
KEEP_FETCHED = 10.0  # seconds for which a version that somebody is fetching is kept
LINGER = 10.0  # seconds for which a learner that is done waits for its actors to ask
OK, REFUSED = 0, 1
GONE, FINISHED = -2, -3  # in place of a version
_STRING, _INT64 = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)
ANSWERS = {
    "put": tf.TensorSpec([], tf.int32),
    "fetch": [_INT64, _INT64, _STRING],
    "handshake": _STRING,
    "infer": [_STRING, tf.TensorSpec([], tf.float64)],
}


class LearnerLost(Exception):
    """The learner does not answer; connecting again may help."""


class HandshakeRefused(Exception):
    """The learner answered, and does not want us."""


def read_token(token_file: str) -> str:
    """The shared secret, or "" if there is none. ValueError if the file can be read by others."""
    if token := os.environ.get("MLMA_TOKEN", ""):
        return token
    if not token_file:
        return ""
    try:
        mode = stat.S_IMODE(os.stat(token_file).st_mode)
        if mode & 0o077:
            raise ValueError(
                f"--token_file={token_file}: has mode {mode:04o}, others could read it; allowed: 0600 (chmod 600 {token_file})"
            )
        token = Path(token_file).read_text().strip()
    except OSError as error:
        raise ValueError(f"--token_file={token_file}: {error.strerror}") from None
    if not token:
        raise ValueError(f"--token_file={token_file}: is empty")
    return token


def check_address(address: str, token: str) -> str:
    """The address as the runtime wants it; ValueError if it is malformed, or open to a network without a token."""
    if address.startswith("unix:"):
        if len(address) > 100:
            raise ValueError(f"--learner_host={address}: too long for a unix socket (at most 95 characters of path)")
        return address
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"--learner_host={address}: must be host:port or unix:/path")
    if host == "localhost":
        host = "127.0.0.1"
    if not (host.startswith("127.") or host == "[::1]") and not token:
        raise ValueError(
            f"--learner_host={address}: is open to the network, which needs a shared token; set MLMA_TOKEN or --token_file"
        )
    return f"{host}:{port}"


def is_here(address: str) -> bool:
    """Whether this is an address of this machine; one end of a tunnel is, too."""
    host, _, _ = address.rpartition(":")
    return address.startswith(("unix:", "[::1]:")) or is_address_here(host)


def _secret(token: str) -> bytes:
    """What is sent and compared: always 64 bytes."""
    return hashlib.sha256(f"mlma {token}".encode()).hexdigest().encode()


class Inference(Protocol):
    """What acts for actors that ask: mlma/inference.py."""

    finished: bool
    told: int  # actors that were told so

    def publish(self, version: int, weights: tf.Tensor) -> None: ...

    def answer(self, message: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Within a graph: what to reply, and messages that go to the inbox, string [M]."""
        ...


def _now_after(tensor: Any) -> tf.Tensor:
    with tf.control_dependencies([tensor]):
        return tf.timestamp()


class Server:
    """The learner's end."""

    def __init__(
        self,
        address: str,
        token: str,
        handshake: Callable[[dict[str, Any]], dict[str, Any]],
        inference: Inference | None = None,
    ) -> None:
        """With an `inference` it acts for actors that ask."""
        self._handshake, self._inference = handshake, inference
        self._secret = tf.constant(np.frombuffer(_secret(token), np.uint8))
        self._inbox = tf.queue.FIFOQueue(INBOX, [tf.string], shapes=[[]])
        self._lock = threading.Lock()
        self._weights: dict[int, tuple[tf.Tensor, list[bytes], float]] = {}  # version -> tensor, its parts, last asked for
        self._latest = GONE
        self._finished, self._told = False, 0
        self._server = rpc.Server.create("grpc", address)
        self._server.register("put", graph(self._put, [_STRING, _STRING]))
        self._server.register("fetch", graph(self._fetch, [_STRING, _INT64, _INT64]))
        self._server.register("handshake", graph(self._shake, [_STRING, _STRING]))
        if inference:
            self._server.register("infer", graph(functools.partial(self._infer, inference), [_STRING, _STRING]))

    def start(self) -> None:
        """Serves from now on; the first weights must have been published."""
        assert self._latest != GONE
        self._server.start()

    # What actors call. The graph runs without Python's lock; only the short functions below it take it.

    def _knows(self, secret: tf.Tensor) -> tf.Tensor:
        given = tf.io.decode_raw(secret, tf.uint8, fixed_length=64)
        difference = tf.reduce_sum(tf.cast(tf.bitwise.bitwise_xor(given, self._secret), tf.int32))
        return tf.logical_and(tf.equal(difference, 0), tf.equal(tf.strings.length(secret), 64))

    def _put(self, secret: tf.Tensor, message: tf.Tensor) -> tf.Tensor:
        def enqueue() -> tf.Tensor:
            with tf.control_dependencies([self._inbox.enqueue(message)]):
                return tf.constant(OK)

        return tf.cond(self._knows(secret), enqueue, lambda: tf.constant(REFUSED))

    def _fetch(self, secret: tf.Tensor, version: tf.Tensor, part: tf.Tensor) -> Any:
        def answer() -> Any:
            return tf.numpy_function(self._part, [version, part], [tf.int64, tf.int64, tf.string], stateful=True)

        refused = lambda: [tf.constant(GONE, tf.int64), tf.constant(0, tf.int64), tf.constant("")]  # noqa: E731
        return tf.cond(self._knows(secret), answer, refused)

    def _shake(self, secret: tf.Tensor, message: tf.Tensor) -> tf.Tensor:
        def answer() -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(self._answer, [message], tf.string, stateful=True), [])

        return tf.cond(
            self._knows(secret), answer, lambda: tf.constant(wire.pack({"refused": "the token is not the learner's"}))
        )

    def _infer(self, inference: Inference, secret: tf.Tensor, question: tf.Tensor) -> Any:
        """The answer, once there is room for the trajectories that it completes, and how many seconds that took."""

        def answer() -> Any:
            reply, messages = inference.answer(question)
            began = _now_after(messages)
            with tf.control_dependencies([began]):
                enqueued = self._inbox.enqueue_many([messages])
            return reply, _now_after(enqueued) - began

        refused = tf.constant(wire.pack({"refused": "the token is not the learner's"}))
        return tf.cond(self._knows(secret), answer, lambda: (refused, tf.constant(0.0, tf.float64)))

    def _part(self, version: int, part: int) -> tuple[np.int64, np.int64, bytes]:
        """(version, number of parts, part). Part 0 is of the latest weights, nothing for who has them; others of `version`."""
        with self._lock:
            if self._finished:
                self._told += 1
                return np.int64(FINISHED), np.int64(0), b""
            version = int(version)
            if part == 0:
                if version == self._latest:
                    return np.int64(version), np.int64(0), b""
                version = self._latest
            if version not in self._weights:
                return np.int64(GONE), np.int64(0), b""
            tensor, parts, _ = self._weights[version]
            if not parts:  # cut only what somebody asks for
                data = tensor.numpy().tobytes()
                parts = [data[i : i + wire.PART] for i in range(0, len(data), wire.PART)]
            self._weights[version] = (tensor, parts, time.monotonic())
            chosen = parts[part] if 0 <= part < len(parts) else b""
            return np.int64(version), np.int64(len(parts)), chosen

    def _answer(self, message: bytes) -> bytes:
        try:
            header, _ = wire.unpack(message)
        except ValueError as error:
            return wire.pack({"refused": f"malformed handshake: {error}"})
        with self._lock:
            if self._finished:  # who comes now had lost its call when the inbox was closed
                self._told += 1
                return wire.pack({"finished": True, "time": time.time()})
        try:
            return wire.pack(self._handshake(header))
        except ValueError as error:
            return wire.pack({"refused": str(error)})
        except (KeyError, TypeError) as error:
            return wire.pack({"refused": f"malformed handshake: {error!r}"})

    # What the learner calls.

    def receive(self) -> bytes | None:
        """The next message; waits for it. None once the server is closed."""
        try:
            return self._inbox.dequeue().numpy()
        except (tf.errors.OutOfRangeError, tf.errors.CancelledError):
            return None

    def publish(self, version: int, weights: tf.Tensor) -> None:
        """Offers these weights to actors; `weights` is the flat float32 vector of all of them."""
        now = time.monotonic()
        if self._inference:
            self._inference.publish(version, weights)
        with self._lock:
            kept = {v: entry for v, entry in self._weights.items() if entry[1] and now - entry[2] < KEEP_FETCHED}
            self._weights = kept | {version: (weights, [], now)}
            self._latest = version

    def finish(self, actors: int, seconds: float = LINGER) -> None:
        """Lets go of actors that wait to put, and stays until so many have heard that training is over, or `seconds`."""
        with self._lock:
            self._finished = True
        if self._inference:
            self._inference.finished = True
        self._inbox.close(cancel_pending_enqueues=True)
        end = time.monotonic() + seconds
        while self._told + (self._inference.told if self._inference else 0) < actors and time.monotonic() < end:
            time.sleep(0.05)


class Client:
    """An actor's end. `put` returns before the learner has the message, so that acting goes on; one message is under way."""

    def __init__(self, address: str, token: str, seconds: float) -> None:
        self._secret = _secret(token)
        self._address, self._seconds = address, seconds
        self._outbox: queue.Queue[bytes | None] = queue.Queue(1)
        self._failure: Exception | None = None
        # Not rpc.Client.create: it first asks for the list of methods, and the server answers that only between blocked puts.
        # And a name of its own: clients of one name share one connection, which goes away under the other's calls.
        name = f"mlma-{uuid.uuid4().hex}"
        self._client = GrpcClient(address, name, list_registered_methods=False, timeout_in_ms=int(seconds * 1000))
        threading.Thread(target=self._send, daemon=True, name="sender").start()

    def _call(self, method: str, *args: Any) -> Any:
        try:
            return self._client.call(method, [tf.constant(arg) for arg in args], ANSWERS[method]).get_value()
        except tf.errors.OpError as error:
            failure = type(error).__name__
        # Outside, so that the traceback is gone, and with it the call's future: it deletes itself with an operation, which
        # would end up in whatever graph is being made when Python collects it.
        raise LearnerLost(f"{method}: {failure}")

    def handshake(self, hello: dict[str, Any]) -> dict[str, Any]:
        """The learner's answer; it has "finished" if training is over."""
        answer, _ = wire.unpack(self._call("handshake", self._secret, wire.pack(hello)).numpy())
        if "refused" in answer:
            raise HandshakeRefused(answer["refused"])
        return answer

    def fetch(self, have: int) -> tuple[int, bytes | None]:
        """(version, weights), all of one version; weights is None if there is nothing newer than `have`."""
        for _ in range(FETCH_TRIES):
            version, data = self._fetch_latest(have)
            if version != GONE:
                return version, data
        return have, None  # the network is slower than the learner; the next time may be better

    def _fetch_latest(self, have: int) -> tuple[int, bytes | None]:
        data: list[bytes] = []
        version, count = have, 1
        while len(data) < count:
            answer = self._call("fetch", self._secret, np.int64(version), np.int64(len(data)))
            version, count = int(answer[0]), int(answer[1])
            if version in (GONE, FINISHED) or version == have:
                return version, None
            data.append(answer[2].numpy())
        return version, b"".join(data)

    def put(self, message: bytes, waiting: Callable[[], None] = lambda: None) -> None:
        """Hands a message to the sender; waits while the one before is not accepted yet, calling `waiting` now and then."""
        while True:
            if self._failure:
                raise self._failure
            try:
                return self._outbox.put(message, timeout=0.5)
            except queue.Full:
                waiting()

    def infer(self, question: bytes) -> tuple[bytes, float]:
        """What the learner answers, and for how many seconds of that time it had no room for trajectories."""
        answer, waited = self._call("infer", self._secret, question)
        return answer.numpy(), float(waited)

    def _send(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                if int(self._call("put", self._secret, message)) == REFUSED:
                    raise HandshakeRefused("the token is not the learner's")
            except (LearnerLost, HandshakeRefused) as error:
                self._failure = error
                return

    def close(self) -> None:
        self._failure = self._failure or LearnerLost("closed")
        with contextlib.suppress(queue.Full):
            self._outbox.put_nowait(None)
