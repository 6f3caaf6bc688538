"""The inference server: computes actions in the learner for actors with `--inference=learner`.

Each call brings one time step of all environments of one actor. Concurrent calls are batched
(`tf.nondifferentiable_batch_function`) up to a size or for a time. What an actor would keep otherwise, its recurrent
state and the trajectories in progress, is kept here in a session per connection. The network is a copy that acts with
published weights only, and only one batch runs at a time, so each batch uses one version. Not here: the calls
(mlma/transport/server.py), the receiver of complete trajectories, the same as for other actors
(mlma/learning/trajectory_receiver.py).
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import numpy as np
import tensorflow as tf

from mlma.acting.inference_sessions import (
    ActorSession,
    SessionTable,
    check_request,
    read_cache_news,
    read_session_id,
    read_telemetry,
)
from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.config import Config
from mlma.core.flat_weights import FlatWeights, build_variables, dummy_noise, dummy_timestep
from mlma.core.record_layout import trajectory_layout
from mlma.core.refusal import RefusedError
from mlma.core.types import ActOutput, Agent, EnvSpec
from mlma.monitoring.refusals import REFUSABLE, Refusals, reason_of
from mlma.transport.messages import pack, split_message, unpack
from mlma.utils.tf_function import leaf_mask, leaves, nest_builder, tf_function

MAX_QUEUED_BATCHES = 1000  # batches that may wait; each actor has at most one call in flight

UNKNOWN, MALFORMED, FINISHED = -1, -2, -3  # in place of a session id: the request is refused, for this reason
REFUSALS: dict[int, dict[str, Any]] = {  # reason -> header of the reply
    UNKNOWN: {"refused": "session expired or unknown; reconnect"},
    MALFORMED: {"refused": "malformed request"},
    FINISHED: {"finished": True},
}


class InferenceServer:
    """Implements mlma.transport.server.RemoteInference."""

    def __init__(self, config: Config, spec: EnvSpec, agent: Agent, refusals: Refusals | None = None) -> None:
        """`agent` must not be the learner's own: its weights are overwritten here. `refusals` counts requests that are
        refused."""
        build_variables(agent, spec)
        self._spec, self._agent, self._unroll_length = spec, agent, config.learner.unroll_length
        self._weights = FlatWeights(agent.network)
        self._layout = trajectory_layout(spec, agent, config.learner.unroll_length)
        self._initial_priorities = tf_function(agent.initial_priorities)
        # The weights published last, followed by the 64 bits of their version: one variable, so that both change
        # together.
        self._published = tf.Variable(tf.zeros([self._weights.count + 2]), trainable=False)
        self._version = tf.Variable(-1, trainable=False, dtype=tf.int64)  # of the weights in the network
        self.sessions = SessionTable(spec, self._layout, config.actor.num_actors, config.actor.envs_per_actor)
        self._refusals = refusals or Refusals(lambda fault: None)
        self._lock = threading.Lock()
        self.finished = False
        self._num_rows, self._num_batches = 0, 0.0  # since the last call of batch_size
        inputs = dummy_timestep(spec, 1).policy_inputs(), agent.initial_state(1), dummy_noise(spec)
        self._build_inputs, self._build_state = nest_builder(leaf_mask(inputs)), nest_builder(leaf_mask(inputs[1]))
        self._input_specs = [tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype) for leaf in leaves(inputs)]
        padded_sizes = [int(size) for size in config.actor.inference_sizes.split(",") if size]
        make_batched = tf.nondifferentiable_batch_function(
            1,
            config.actor.inference_batch,
            round(config.actor.inference_wait_ms * 1000),
            padded_sizes or None,
            MAX_QUEUED_BATCHES,
            autograph=False,
        )
        self._act_batched, self._scope = make_batched(self._act), f"inference_{uuid.uuid4().hex}"

    # -- called by the learner

    def publish(self, version: int, weights: tf.Tensor) -> None:
        """Acts with these weights from the next batch on."""
        self._published.assign(tf.concat([weights, tf.bitcast(tf.constant(version, tf.int64), tf.float32)], axis=0))

    def check_size(self, task: int, num_envs: Any) -> None:
        """RefusedError if there is no room for a session of this actor; its former session is closed."""
        with self._lock:
            self.sessions.check_size(task, num_envs)

    def open(self, task: int, num_envs: int, env_indices: Any, seed: int) -> int:
        """Opens a session; `env_indices` are the run-wide indices of the actor's environments. Returns its id.

        ValueError if a request would not fit into one message, or the session into the memory for sessions.
        """
        self.check_size(task, num_envs)
        priorities = self._initial_priorities
        writer = TrajectoryWriter(self._layout, num_envs, self._unroll_length, task, env_indices, seed, priorities)
        session = ActorSession(self._spec, task, num_envs, self._agent.initial_state(num_envs), writer)
        with self._lock:
            return self.sessions.add(session)

    def batch_size(self) -> float:
        """Mean number of environments in a batch since the last call; NaN without a batch."""
        rows, batches = self._num_rows, self._num_batches
        self._num_rows, self._num_batches = 0, 0.0
        return rows / batches if batches else float("nan")

    # -- called by actors: the graph runs without Python's lock, only the short numpy_functions take it

    def answer(self, message: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The packed reply, and the messages with trajectories that are now complete: string [], string [M]."""
        dtypes = [tf.int64, *(spec.dtype for spec in self._input_specs)]
        session_id, *inputs = tf.numpy_function(self._read_request, [message], dtypes, stateful=True)
        inputs = [tf.ensure_shape(leaf, spec.shape) for leaf, spec in zip(inputs, self._input_specs, strict=True)]

        def act() -> Any:
            with tf.name_scope(self._scope):  # batches are shared by everything in the process that has the same name
                outputs = self._act_batched(*inputs)
            return tf.numpy_function(self._write_reply, [session_id, *outputs], [tf.string, tf.string], stateful=True)

        def refuse() -> Any:
            return tf.numpy_function(self._refuse, [session_id], [tf.string, tf.string], stateful=True)

        reply, messages = tf.cond(session_id >= 0, act, refuse)
        return tf.ensure_shape(reply, []), tf.ensure_shape(messages, [None])

    def _act(self, *inputs: tf.Tensor) -> list[tf.Tensor]:
        """Acts for a batch: [B, ...] -> action, logits, value, version, 1 / B, agent state."""
        published = self._published.read_value()
        version = tf.bitcast(published[-2:], tf.int64)
        stale = tf.not_equal(version, self._version)
        tf.cond(stale, lambda: self._load_weights(published[:-2], version), lambda: tf.constant(0))
        output, state = self._agent.act(*self._build_inputs(inputs))
        rows = tf.shape(output.value)
        share = 1.0 / tf.cast(rows, tf.float32)
        return [*output, tf.fill(rows, version), tf.repeat(share, rows[0]), *leaves(state)]

    def _load_weights(self, weights: tf.Tensor, version: tf.Tensor) -> tf.Tensor:
        self._weights.assign(weights)
        self._version.assign(version)
        return tf.constant(0)

    def _read_request(self, message: bytes) -> list[Any]:
        """The session id and the inputs of the network, or the reason for a refusal and empty inputs."""
        if self.finished:
            return self._empty_inputs(FINISHED)
        session = None
        try:
            header, payload = unpack(message)
            session_id = read_session_id(header)
            with self._lock:
                session = self.sessions.get(session_id)
            (record,) = session.request_layout.from_bytes(payload)
            request = session.request_layout.view(record)
            check_request(request, self._spec)
            telemetry, level_cache = read_telemetry(header), read_cache_news(header)
            with self._lock:
                if session.timestep is not None:
                    raise RefusedError("session", "the session has a request in progress")
                session.timestep, session.last_seen = request.timestep, time.monotonic()
            session.telemetry, session.level_cache = telemetry, level_cache
            if request.crashed.any():
                session.writer.drop(request.crashed)
            return [
                np.int64(session_id),
                *leaves((request.timestep.policy_inputs(), session.agent_state, request.noise)),
            ]
        except REFUSABLE as error:
            self._refusals.add(error, session.task if session else None, "a request of ")
            return self._empty_inputs(UNKNOWN if reason_of(error) == "session" else MALFORMED)

    def _empty_inputs(self, reason: int) -> list[Any]:
        return [np.int64(reason), *(np.zeros([0, *s.shape[1:]], s.dtype.as_numpy_dtype) for s in self._input_specs)]

    def _refuse(self, reason: int) -> list[Any]:
        return [pack(REFUSALS[int(reason)]), np.array([], object)]

    def _write_reply(self, session_id: int, *outputs: Any) -> list[Any]:
        session = None
        try:
            with self._lock:
                session = self.sessions.get(int(session_id))  # a new handshake of the actor may have closed it
            return self._advance(session, *outputs)
        except REFUSABLE as error:  # such as too little memory; the actor connects again
            self._refusals.add(error, session.task if session else None, "a request of ")
            with self._lock:
                self.sessions.close(int(session_id))
            return self._refuse(UNKNOWN)

    def _advance(self, session: ActorSession, *outputs: Any) -> list[Any]:
        """Writes the step into the actor's trajectories. The reply, and messages with those that are complete."""
        output, (version, share), state = ActOutput(*outputs[:3]), outputs[3:5], outputs[5:]
        timestep, writer, messages = session.timestep, session.writer, []
        if writer.add(timestep, output, session.agent_state, version):
            once = session.level_cache | {"events": session.telemetry.pop("events", [])}  # in one message only
            for payload in writer.messages():
                header = {"task": session.task, "dropped": writer.dropped(), **session.telemetry, **once}
                messages += split_message(header, payload)
                once = {}
            writer.add(timestep, output, session.agent_state, version)  # step T is step 0 of the next trajectories
        session.agent_state = self._build_state(state)
        self._num_rows, self._num_batches = self._num_rows + len(share), self._num_batches + float(share.sum())
        record = session.reply_layout.empty(1)
        for field, value in zip(session.reply_layout.view(record), output, strict=True):
            field[0] = value
        session.timestep = None
        return [pack({}, memoryview(record.view(np.uint8))), np.array(messages, object)]
