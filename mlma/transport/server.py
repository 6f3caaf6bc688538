"""The learner's end of the transport: TensorFlow's distributed RPC with four methods: handshake, put, fetch, infer.

A message is one string tensor of at most MAX_MESSAGE_BYTES of payload, since TensorFlow refuses messages above 4 MiB;
longer payloads travel in parts. A `put` waits in the learner while its inbox is full, which is the back-pressure. The
token is compared inside the graph, in constant shape and time; without it nothing is accepted. Not here: what messages
contain (mlma/core/record_layout.py, mlma/transport/inference_messages.py), where trajectories go
(mlma/learning/trajectory_receiver.py).
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
from mlma.transport.protocol import BUSY, FAREWELL, INT64, OK, REFUSED, STRING, TRAINING_OVER, VERSION_UNAVAILABLE
from mlma.utils.tf_function import tf_function, timestamp_after

rpc = tf.distribute.experimental.rpc

INBOX_CAPACITY = 2  # messages that wait, in addition to those of blocked calls
SPARE_PUTS = 32  # messages that may wait in addition to two of each actor, which may have connected again
KEEP_FETCHED_SECONDS = 10.0  # after its last fetch, for which a version that is being fetched is kept
MAX_KEPT_VERSIONS, MAX_KEPT_BYTES = 1000, 2**30  # of versions that are being fetched, or said to be
SHUTDOWN_GRACE_SECONDS = 10.0  # for which a learner that has finished waits until its actors say that they know
WRONG_TOKEN = {"refused": "the token is not the learner's"}


class RemoteInference(Protocol):
    """Computes actions for actors that request them: mlma/acting/inference_server.py."""

    finished: bool  # set by the server when training is over

    def publish(self, version: int, weights: tf.Tensor) -> None:
        """See Server.publish."""
        ...

    def answer(self, message: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Part of a graph: the reply, and messages for the inbox, string [M]."""
        ...


class Server:
    """Accepts messages from actors and offers them weights."""

    def __init__(
        self,
        address: str,
        token: str,
        handshake: Callable[[dict[str, Any]], dict[str, Any]],
        inference: RemoteInference | None = None,
        on_malformed: Callable[[Exception], None] = lambda error: None,
        num_actors: int = 1,
    ) -> None:
        """`handshake` answers an actor's request; with `inference`, actors can also request actions. `on_malformed` is
        told of requests that cannot be read. `num_actors` are expected."""
        self._waiting, self._max_waiting = 0, SPARE_PUTS + 2 * num_actors  # calls of put, each with a message
        self._admit, self._inference, self._on_malformed = handshake, inference, on_malformed
        self._secret = np.frombuffer(token_digest(token), np.uint8)
        self._inbox = tf.queue.FIFOQueue(INBOX_CAPACITY, [tf.string], shapes=[[]])
        self._lock = threading.Lock()
        # Version -> tensor, its parts, time of last fetch.
        self._weights: dict[int, tuple[tf.Tensor, list[bytes], float]] = {}
        self._latest = VERSION_UNAVAILABLE
        self._ending, self._finished, self._farewells = False, False, 0
        self._server = rpc.Server.create("grpc", address)
        self._server.register("put", tf_function(self._put, [STRING, STRING]))
        self._server.register("fetch", tf_function(self._fetch, [STRING, INT64, INT64]))
        self._server.register("handshake", tf_function(self._handshake, [STRING, STRING]))
        if inference:
            self._server.register("infer", tf_function(functools.partial(self._infer, inference), [STRING, STRING]))

    def start(self) -> None:
        """Starts to serve; the first weights must have been published."""
        assert self._latest != VERSION_UNAVAILABLE
        self._server.start()

    # -- called by actors: the graphs run without Python's lock, only the short numpy_functions take it

    def _authenticated(self, secret: tf.Tensor) -> tf.Tensor:
        # A constant of the graph. A tensor from outside would be captured, and captured tensors can be replaced by a
        # caller who sends more arguments than the function has.
        expected = tf.constant(self._secret)
        received = tf.io.decode_raw(secret, tf.uint8, fixed_length=64)
        difference = tf.reduce_sum(tf.cast(tf.bitwise.bitwise_xor(received, expected), tf.int32))
        return tf.logical_and(tf.equal(difference, 0), tf.equal(tf.strings.length(secret), 64))

    def _put(self, secret: tf.Tensor, message: tf.Tensor) -> tf.Tensor:
        def enqueue() -> tf.Tensor:
            with tf.control_dependencies([self._inbox.enqueue(message)]):
                return tf.ensure_shape(tf.numpy_function(self._leave, [], tf.int32, stateful=True), [])

        def answer() -> tf.Tensor:
            has_room = tf.ensure_shape(tf.numpy_function(self._enter, [], tf.bool, stateful=True), [])
            return tf.cond(has_room, enqueue, lambda: tf.constant(BUSY))

        return tf.cond(self._authenticated(secret), answer, lambda: tf.constant(REFUSED))

    def _fetch(self, secret: tf.Tensor, version: tf.Tensor, part: tf.Tensor) -> Any:
        def answer() -> Any:
            return tf.numpy_function(
                self._weights_part, [version, part], [tf.int64, tf.int64, tf.string], stateful=True
            )

        def refuse() -> Any:
            return [tf.constant(VERSION_UNAVAILABLE, tf.int64), tf.constant(0, tf.int64), tf.constant("")]

        return tf.cond(self._authenticated(secret), answer, refuse)

    def _handshake(self, secret: tf.Tensor, message: tf.Tensor) -> tf.Tensor:
        def answer() -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(self._answer_handshake, [message], tf.string, stateful=True), [])

        return tf.cond(self._authenticated(secret), answer, lambda: tf.constant(pack(WRONG_TOKEN)))

    def _infer(self, inference: RemoteInference, secret: tf.Tensor, message: tf.Tensor) -> Any:
        """(reply, seconds waited until the inbox had room for the trajectories that the request completes)."""

        def answer() -> Any:
            reply, messages = inference.answer(message)
            began = timestamp_after([messages])
            with tf.control_dependencies([began]):
                enqueued = self._inbox.enqueue_many([messages])
            return reply, timestamp_after([enqueued]) - began

        refused = tf.constant(pack(WRONG_TOKEN))
        return tf.cond(self._authenticated(secret), answer, lambda: (refused, tf.constant(0.0, tf.float64)))

    def _enter(self) -> np.bool_:
        """Whether one more message may wait for room in the inbox: an actor has one at a time, and each takes 4 MB."""
        with self._lock:
            has_room = self._waiting < self._max_waiting
            self._waiting += has_room
        return np.bool_(has_room)

    def _leave(self) -> np.int32:
        with self._lock:
            self._waiting -= 1
        return np.int32(OK)

    def _weights_part(self, version: int, part: int) -> tuple[np.int64, np.int64, bytes]:
        """(version, number of parts, part).

        Part 0 always refers to the latest weights and is empty if the caller already has them; later parts refer to
        `version`.
        """
        with self._lock:
            if self._finished:
                return np.int64(TRAINING_OVER), np.int64(0), b""
            version = int(version)
            if part == 0:
                if version == self._latest:
                    return np.int64(version), np.int64(0), b""
                version = self._latest
            if version not in self._weights:
                return np.int64(VERSION_UNAVAILABLE), np.int64(0), b""
            tensor, parts, _ = self._weights[version]
            if not parts:  # split at the first fetch: most versions are never fetched
                data = tensor.numpy().tobytes()
                parts = [data[i : i + MAX_MESSAGE_BYTES] for i in range(0, len(data), MAX_MESSAGE_BYTES)]
            self._weights[version] = (tensor, parts, time.monotonic())
            chosen = parts[part] if 0 <= part < len(parts) else b""
            return np.int64(version), np.int64(len(parts)), chosen

    def _answer_handshake(self, message: bytes) -> bytes:
        try:
            request, _ = unpack(message)
        except (ValueError, MemoryError) as error:
            self._on_malformed(error)
            return pack({"refused": f"malformed handshake: {error}"})
        with self._lock:
            if self._finished:  # an actor that connects now lost its call when the inbox was closed
                self._farewells += FAREWELL in request
                return pack({"finished": True, "time": time.time()})
            if self._ending:
                return pack({"ending": True})
        try:
            return pack(self._admit(request))
        except ValueError as error:
            return pack({"refused": str(error)})
        except (KeyError, TypeError) as error:
            return pack({"refused": f"malformed handshake: {error!r}"})

    # -- called by the learner

    def receive(self) -> bytes | None:
        """Waits for the next message; None once the server is shut down."""
        try:
            return self._inbox.dequeue().numpy()
        except (tf.errors.OutOfRangeError, tf.errors.CancelledError):
            return None

    def publish(self, version: int, weights: tf.Tensor) -> None:
        """Offers these weights to actors; `weights` is the flat float32 vector of FlatWeights."""
        now = time.monotonic()
        if self._inference:
            self._inference.publish(version, weights)
        with self._lock:
            # A fetch of one part is complete.
            kept = {
                v: entry
                for v, entry in self._weights.items()
                if len(entry[1]) > 1 and now - entry[2] < KEEP_FETCHED_SECONDS
            }
            room = min(MAX_KEPT_VERSIONS, max(1, MAX_KEPT_BYTES // (2 * weights.shape.num_elements() * 4)))
            for oldest in list(kept)[:-room]:
                del kept[oldest]
            self._weights = kept | {version: (weights, [], now)}
            self._latest = version

    def shutdown(
        self, num_actors: int, grace_seconds: float = SHUTDOWN_GRACE_SECONDS, training_is_over: bool = True
    ) -> None:
        """Releases actors that wait in `put`; returns when `num_actors` have said that they know that training is over,
        or after `grace_seconds`. An answer that was sent is not enough: it is lost if the process ends at once. If
        training is not over, actors lose this learner and look for the one that continues."""
        with self._lock:
            self._ending, self._finished = True, training_is_over
        if self._inference:
            self._inference.finished = training_is_over
        self._inbox.close(cancel_pending_enqueues=True)
        if not training_is_over:
            return
        end = time.monotonic() + grace_seconds
        while self._farewells < num_actors and time.monotonic() < end:
            time.sleep(0.05)
