"""The wire: TensorFlow's distributed RPC between one learner and its actors. Four calls: handshake,
put, fetch; and infer, which takes what an actor sees and answers what it shall do.

Every message is one string tensor of at most wire.PART bytes, since the runtime refuses messages above 4 MiB: what is longer
travels in parts. A `put` waits in the learner while its inbox is full, which is the back-pressure. The token is compared
inside the graph in constant shape and time; without it nothing is accepted. Not here: what messages mean (mlma/core/record_layout.py),
where trajectories go (mlma/replay/trajectory_queue.py).
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from mlma.transport.auth import token_digest
from mlma.transport.messages import MAX_MESSAGE_BYTES, pack, unpack
from mlma.transport.protocol import INT64, OK, REFUSED, STRING, TRAINING_OVER, VERSION_UNAVAILABLE
from mlma.utils.tf_function import tf_function

rpc = tf.distribute.experimental.rpc

INBOX_CAPACITY = 2  # messages that wait beside those of blocked calls
KEEP_FETCHED_SECONDS = 10.0  # seconds for which a version that somebody is fetching is kept
SHUTDOWN_GRACE_SECONDS = 10.0  # seconds for which a learner that is done waits for its actors to ask


class RemoteInference(Protocol):
    """What acts for actors that ask: mlma/acting/inference_server.py."""

    finished: bool
    actors_notified: int  # actors that were actors_notified so

    def publish(self, version: int, weights: tf.Tensor) -> None: ...

    def answer(self, message: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Within a graph: what to reply, and messages that go to the inbox, string [M]."""
        ...


def _timestamp_after(tensor: Any) -> tf.Tensor:
    with tf.control_dependencies([tensor]):
        return tf.timestamp()


class Server:
    """The learner's end."""

    def __init__(
        self,
        address: str,
        token: str,
        handshake: Callable[[dict[str, Any]], dict[str, Any]],
        inference: RemoteInference | None = None,
    ) -> None:
        """With an `inference` it acts for actors that ask."""
        self._admit, self._inference = handshake, inference
        self._secret = tf.constant(np.frombuffer(token_digest(token), np.uint8))
        self._inbox = tf.queue.FIFOQueue(INBOX_CAPACITY, [tf.string], shapes=[[]])
        self._lock = threading.Lock()
        self._weights: dict[int, tuple[tf.Tensor, list[bytes], float]] = {}  # version -> tensor, its parts, last asked for
        self._latest = VERSION_UNAVAILABLE
        self._finished, self._actors_notified = False, 0
        self._server = rpc.Server.create("grpc", address)
        self._server.register("put", tf_function(self._put, [STRING, STRING]))
        self._server.register("fetch", tf_function(self._fetch, [STRING, INT64, INT64]))
        self._server.register("handshake", tf_function(self._handshake, [STRING, STRING]))
        if inference:
            self._server.register("infer", tf_function(functools.partial(self._infer, inference), [STRING, STRING]))

    def start(self) -> None:
        """Serves from now on; the first weights must have been published."""
        assert self._latest != VERSION_UNAVAILABLE
        self._server.start()

    # What actors call. The graph runs without Python's lock; only the short functions below it take it.

    def _authenticated(self, secret: tf.Tensor) -> tf.Tensor:
        given = tf.io.decode_raw(secret, tf.uint8, fixed_length=64)
        difference = tf.reduce_sum(tf.cast(tf.bitwise.bitwise_xor(given, self._secret), tf.int32))
        return tf.logical_and(tf.equal(difference, 0), tf.equal(tf.strings.length(secret), 64))

    def _put(self, secret: tf.Tensor, message: tf.Tensor) -> tf.Tensor:
        def enqueue() -> tf.Tensor:
            with tf.control_dependencies([self._inbox.enqueue(message)]):
                return tf.constant(OK)

        return tf.cond(self._authenticated(secret), enqueue, lambda: tf.constant(REFUSED))

    def _fetch(self, secret: tf.Tensor, version: tf.Tensor, part: tf.Tensor) -> Any:
        def answer() -> Any:
            return tf.numpy_function(self._part, [version, part], [tf.int64, tf.int64, tf.string], stateful=True)

        refused = lambda: [tf.constant(VERSION_UNAVAILABLE, tf.int64), tf.constant(0, tf.int64), tf.constant("")]  # noqa: E731
        return tf.cond(self._authenticated(secret), answer, refused)

    def _handshake(self, secret: tf.Tensor, message: tf.Tensor) -> tf.Tensor:
        def answer() -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(self._answer, [message], tf.string, stateful=True), [])

        return tf.cond(
            self._authenticated(secret), answer, lambda: tf.constant(pack({"refused": "the token is not the learner's"}))
        )

    def _infer(self, inference: RemoteInference, secret: tf.Tensor, question: tf.Tensor) -> Any:
        """The answer, once there is room for the trajectories that it completes, and how many seconds that took."""

        def answer() -> Any:
            reply, messages = inference.answer(question)
            began = _timestamp_after(messages)
            with tf.control_dependencies([began]):
                enqueued = self._inbox.enqueue_many([messages])
            return reply, _timestamp_after(enqueued) - began

        refused = tf.constant(pack({"refused": "the token is not the learner's"}))
        return tf.cond(self._authenticated(secret), answer, lambda: (refused, tf.constant(0.0, tf.float64)))

    def _part(self, version: int, part: int) -> tuple[np.int64, np.int64, bytes]:
        """(version, number of parts, part). Part 0 is of the latest weights, nothing for who has them; others of `version`."""
        with self._lock:
            if self._finished:
                self._actors_notified += 1
                return np.int64(TRAINING_OVER), np.int64(0), b""
            version = int(version)
            if part == 0:
                if version == self._latest:
                    return np.int64(version), np.int64(0), b""
                version = self._latest
            if version not in self._weights:
                return np.int64(VERSION_UNAVAILABLE), np.int64(0), b""
            tensor, parts, _ = self._weights[version]
            if not parts:  # cut only what somebody asks for
                data = tensor.numpy().tobytes()
                parts = [data[i : i + MAX_MESSAGE_BYTES] for i in range(0, len(data), MAX_MESSAGE_BYTES)]
            self._weights[version] = (tensor, parts, time.monotonic())
            chosen = parts[part] if 0 <= part < len(parts) else b""
            return np.int64(version), np.int64(len(parts)), chosen

    def _answer(self, message: bytes) -> bytes:
        try:
            header, _ = unpack(message)
        except ValueError as error:
            return pack({"refused": f"malformed handshake: {error}"})
        with self._lock:
            if self._finished:  # who comes now had lost its call when the inbox was closed
                self._actors_notified += 1
                return pack({"finished": True, "time": time.time()})
        try:
            return pack(self._admit(header))
        except ValueError as error:
            return pack({"refused": str(error)})
        except (KeyError, TypeError) as error:
            return pack({"refused": f"malformed handshake: {error!r}"})

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
            kept = {v: entry for v, entry in self._weights.items() if entry[1] and now - entry[2] < KEEP_FETCHED_SECONDS}
            self._weights = kept | {version: (weights, [], now)}
            self._latest = version

    def shutdown(self, actors: int, seconds: float = SHUTDOWN_GRACE_SECONDS) -> None:
        """Lets go of actors that wait to put, and stays until so many have heard that training is over, or `seconds`."""
        with self._lock:
            self._finished = True
        if self._inference:
            self._inference.finished = True
        self._inbox.close(cancel_pending_enqueues=True)
        end = time.monotonic() + seconds
        while (
            self._actors_notified + (self._inference.actors_notified if self._inference else 0) < actors
            and time.monotonic() < end
        ):
            time.sleep(0.05)
