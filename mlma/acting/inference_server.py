"""The inference server: computes actions in the learner for actors with `--inference=learner`.

Each call brings one time step of all environments of one actor. Concurrent calls are batched
(`tf.nondifferentiable_batch_function`) up to a size or for a time. What an actor would keep otherwise, its recurrent
state and the trajectories in progress, is kept here in a session per connection. The network is a copy that acts with
published weights only, and only one batch runs at a time, so each batch uses one version. Not here: the calls
(mlma/transport/server.py), the receiver of complete trajectories, the same as for other actors
(mlma/learning/trajectory_receiver.py).
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from typing import Any

import numpy as np
import tensorflow as tf

from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.config import Config
from mlma.core.flat_weights import FlatWeights, build_variables, dummy_timestep
from mlma.core.record_layout import check_extras, trajectory_layout
from mlma.core.types import ActionNoise, ActOutput, Agent, EnvSpec, TimeStep
from mlma.transport.inference_messages import inference_layouts
from mlma.transport.messages import MAX_MESSAGE_BYTES, pack, split_message, unpack
from mlma.utils.tf_function import leaf_mask, leaves, nest_builder, tf_function

MAX_QUEUED_BATCHES = 1000  # batches that may wait; each actor has at most one call in flight
SESSION_TIMEOUT_SECONDS = 600.0  # without a request, after which an actor counts as gone

UNKNOWN, MALFORMED, FINISHED = -1, -2, -3  # in place of a session id: the request is refused, for this reason
REFUSALS: dict[int, dict[str, Any]] = {  # reason -> header of the reply
    UNKNOWN: {"refused": "session expired or unknown; reconnect"},
    MALFORMED: {"refused": "malformed request"},
    FINISHED: {"finished": True},
}


class ActorSession:
    """What the server keeps of one actor, from its handshake on."""

    def __init__(self, spec: EnvSpec, task: int, num_envs: int, agent_state: Any, writer: TrajectoryWriter) -> None:
        self.task = task
        self.request_layout, self.reply_layout = inference_layouts(spec, num_envs)
        self.agent_state, self.writer = agent_state, writer
        self.timestep: TimeStep | None = None  # of the request in progress
        self.telemetry: dict[str, Any] = {}
        self.last_seen = time.monotonic()


class InferenceServer:
    """Implements mlma.transport.server.RemoteInference."""

    def __init__(self, config: Config, spec: EnvSpec, agent: Agent) -> None:
        """`agent` must not be the learner's own: its weights are overwritten here."""
        build_variables(agent, spec)
        self._spec, self._agent, self._unroll_length = spec, agent, config.learner.unroll_length
        self._weights = FlatWeights(agent.network)
        self._layout = trajectory_layout(spec, agent, config.learner.unroll_length)
        self._initial_priorities = tf_function(agent.initial_priorities)
        # The weights published last, followed by the 64 bits of their version: one variable, so that both change
        # together.
        self._published = tf.Variable(tf.zeros([self._weights.count + 2]), trainable=False)
        self._version = tf.Variable(-1, trainable=False, dtype=tf.int64)  # of the weights in the network
        self._sessions: dict[int, ActorSession] = {}
        self._session_ids = itertools.count()
        self._lock = threading.Lock()
        self.finished, self.actors_notified = False, 0
        self._num_rows, self._num_batches = 0, 0.0  # since the last call of batch_size
        noise = ActionNoise(tf.zeros([1]), tf.zeros([1]))
        inputs = dummy_timestep(spec, 1).policy_inputs(), agent.initial_state(1), noise
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

    def open(self, task: int, num_envs: int, env_indices: Any, seed: int) -> int:
        """Opens a session; `env_indices` are the run-wide indices of the actor's environments. Returns its id.

        ValueError if a request would not fit into one message.
        """
        priorities = self._initial_priorities
        writer = TrajectoryWriter(self._layout, num_envs, self._unroll_length, task, env_indices, seed, priorities)
        session = ActorSession(self._spec, task, num_envs, self._agent.initial_state(num_envs), writer)
        if (size := session.request_layout.dtype.itemsize) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"--envs_per_actor={num_envs}: a request of --inference=learner has {size:,} bytes, the limit is "
                f"{MAX_MESSAGE_BYTES:,}; allowed: --envs_per_actor of at most {MAX_MESSAGE_BYTES * num_envs // size}"
            )
        oldest = time.monotonic() - SESSION_TIMEOUT_SECONDS
        with self._lock:
            self._sessions = {name: other for name, other in self._sessions.items() if other.last_seen > oldest}
            session_id = next(self._session_ids)
            self._sessions[session_id] = session
        return session_id

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
        rows = tf.shape(output.action)
        share = 1.0 / tf.cast(rows, tf.float32)
        return [*output, tf.fill(rows, version), tf.repeat(share, rows[0]), *leaves(state)]

    def _load_weights(self, weights: tf.Tensor, version: tf.Tensor) -> tf.Tensor:
        self._weights.assign(weights)
        self._version.assign(version)
        return tf.constant(0)

    def _read_request(self, message: bytes) -> list[Any]:
        """The session id and the inputs of the network, or the reason for a refusal and empty inputs."""
        try:
            header, payload = unpack(message)
            session_id = int(header["session"])
            with self._lock:
                session = self._sessions.get(session_id)
                if self.finished:
                    self.actors_notified += 1
                    return self._empty_inputs(FINISHED)
                if session is None or session.timestep is not None:
                    return self._empty_inputs(UNKNOWN)
                (record,) = session.request_layout.from_bytes(payload)
                request = session.request_layout.view(record)
                check_extras(request.timestep.extras, self._spec)
                session.timestep, session.last_seen = request.timestep, time.monotonic()
            session.telemetry = {name: header[name] for name in ("phases", "events") if name in header}
            if request.crashed.any():
                session.writer.drop(request.crashed)
            return [
                np.int64(session_id),
                *leaves((request.timestep.policy_inputs(), session.agent_state, request.noise)),
            ]
        except (ValueError, KeyError, TypeError):
            return self._empty_inputs(MALFORMED)

    def _empty_inputs(self, reason: int) -> list[Any]:
        return [np.int64(reason), *(np.zeros([0, *s.shape[1:]], s.dtype.as_numpy_dtype) for s in self._input_specs)]

    def _refuse(self, reason: int) -> list[Any]:
        return [pack(REFUSALS[int(reason)]), np.array([], object)]

    def _write_reply(self, session_id: int, *outputs: Any) -> list[Any]:
        output, (version, share), state = ActOutput(*outputs[:3]), outputs[3:5], outputs[5:]
        session = self._sessions[int(session_id)]
        timestep, writer, messages = session.timestep, session.writer, []
        if writer.add(timestep, output, session.agent_state, version):
            header = {"task": session.task, "dropped": writer.dropped(), **session.telemetry}
            for payload in writer.messages():
                messages += split_message(header, payload)
            writer.add(timestep, output, session.agent_state, version)  # step T is step 0 of the next trajectories
        session.agent_state = self._build_state(state)
        self._num_rows, self._num_batches = self._num_rows + len(share), self._num_batches + float(share.sum())
        record = session.reply_layout.empty(1)
        for field, value in zip(session.reply_layout.view(record), output, strict=True):
            field[0] = value
        session.timestep = None
        return [pack({}, memoryview(record.view(np.uint8))), np.array(messages, object)]
