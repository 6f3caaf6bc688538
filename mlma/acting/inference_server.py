"""Acting for actors, in the learner: `--inference=learner`.

Each call brings what the environments of one actor show; calls that are under way at the same time become one batch
(`tf.nondifferentiable_batch_function`), up to a size or for a time. What an actor would keep, its recurrent state and the
trajectories that are being filled, is kept here, by session. The network is a copy that acts with published weights only, and
only one batch runs at a time, so that each batch is of one version. Not here: calls (mlma/transport/server.py), what becomes of
complete trajectories, which go where those of other actors go.
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

MAX_QUEUED_BATCHES = 1000  # batches that may wait; actors have one call under way each
SESSION_TIMEOUT_SECONDS = 600.0  # seconds after which an actor that says nothing has gone


class ActorSession:
    """One life of one actor."""

    def __init__(
        self, spec: EnvSpec, task: int, num_envs: int, agent_state: Any, trajectories: TrajectoryWriter
    ) -> None:
        self.task = task
        self.questions, self.replies = inference_layouts(spec, num_envs)
        self.state, self.trajectories = agent_state, trajectories
        self.timestep: TimeStep | None = None  # of the call that is under way
        self.telemetry: dict[str, Any] = {}
        self.last_seen = time.monotonic()


class InferenceServer:
    def __init__(self, config: Config, spec: EnvSpec, agent: Agent) -> None:
        """`agent` is for this alone: its weights are written here."""
        build_variables(agent, spec)
        self._spec, self._agent, self._unroll = spec, agent, config.learner.unroll_length
        self._weights = FlatWeights(agent.network)
        self._layout = trajectory_layout(spec, agent, config.learner.unroll_length)
        self._errors = tf_function(agent.initial_priorities)
        self._offer = tf.Variable(tf.zeros([self._weights.count + 2]), trainable=False)  # weights, version in 64 bits
        self._acts_with = tf.Variable(-1, trainable=False, dtype=tf.int64)
        self._sessions: dict[int, ActorSession] = {}
        self._names = itertools.count()
        self._lock = threading.Lock()
        self.finished, self.actors_notified = False, 0
        self.rows, self.batches = 0, 0.0
        one = (
            dummy_timestep(spec, 1).policy_inputs(),
            agent.initial_state(1),
            ActionNoise(tf.zeros([1]), tf.zeros([1])),
        )
        self._nest, self._state = nest_builder(leaf_mask(one)), nest_builder(leaf_mask(one[1]))
        self._leaves = [tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype) for leaf in leaves(one)]
        sizes = [int(size) for size in config.actor.inference_sizes.split(",") if size]
        batched = tf.nondifferentiable_batch_function(
            1,
            config.actor.inference_batch,
            round(config.actor.inference_wait_ms * 1000),
            sizes or None,
            MAX_QUEUED_BATCHES,
            autograph=False,
        )
        self._batched, self._scope = batched(self._act), f"inference_{uuid.uuid4().hex}"

    # What the learner calls.

    def publish(self, version: int, weights: tf.Tensor) -> None:
        self._offer.assign(tf.concat([weights, tf.bitcast(tf.constant(version, tf.int64), tf.float32)], axis=0))

    def open(self, task: int, num_envs: int, of_run: Any, seed: int) -> int:
        """A session for an actor that came; `of_run` is which of all environments of the run it has."""
        trajectories = TrajectoryWriter(self._layout, num_envs, self._unroll, task, of_run, seed, self._errors)
        session = ActorSession(self._spec, task, num_envs, self._agent.initial_state(num_envs), trajectories)
        if (size := session.questions.dtype.itemsize) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"{num_envs} environments show {size:,} bytes at once, a call of --inference=learner holds {MAX_MESSAGE_BYTES:,}; "
                f"allowed: --envs_per_actor of at most {MAX_MESSAGE_BYTES * num_envs // size}"
            )
        now = time.monotonic()
        with self._lock:
            self._sessions = {
                name: each for name, each in self._sessions.items() if now - each.last_seen < SESSION_TIMEOUT_SECONDS
            }
            name = next(self._names)
            self._sessions[name] = session
        return name

    def batch_size(self) -> float:
        """Mean number of environments in a batch, since it was asked last."""
        rows, batches = self.rows, self.batches
        self.rows, self.batches = 0, 0.0
        return rows / batches if batches else float("nan")

    # What actors call. The graph runs without Python's lock; only the short functions take it.

    def answer(self, message: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The packed reply, and the messages with trajectories that are complete now: string [], string [M]."""
        name, *seen = tf.numpy_function(
            self._asked, [message], [tf.int64, *(leaf.dtype for leaf in self._leaves)], stateful=True
        )
        seen = [tf.ensure_shape(leaf, spec.shape) for leaf, spec in zip(seen, self._leaves, strict=True)]

        def act() -> Any:
            with tf.name_scope(self._scope):  # batches of one name are shared by the process
                answers = self._batched(*seen)
            return tf.numpy_function(self._answered, [name, *answers], [tf.string, tf.string], stateful=True)

        def refuse() -> Any:
            return tf.numpy_function(self._refusal, [name], [tf.string, tf.string], stateful=True)

        reply, messages = tf.cond(name >= 0, act, refuse)
        return tf.ensure_shape(reply, []), tf.ensure_shape(messages, [None])

    def _act(self, *tensors: tf.Tensor) -> list[tf.Tensor]:
        """A batch: [B, ...] -> action, logits, value, version, 1 / B, state."""
        offer = self._offer.read_value()
        version = tf.bitcast(offer[-2:], tf.int64)
        stale = tf.not_equal(version, self._acts_with)
        tf.cond(stale, lambda: self._take(offer[:-2], version), lambda: tf.constant(0))
        output, state = self._agent.act(*self._nest(tensors))
        rows = tf.shape(output.action)
        share = 1.0 / tf.cast(rows, tf.float32)
        return [*output, tf.fill(rows, version), tf.repeat(share, rows[0]), *leaves(state)]

    def _take(self, weights: tf.Tensor, version: tf.Tensor) -> tf.Tensor:
        self._weights.assign(weights)
        self._acts_with.assign(version)
        return tf.constant(0)

    def _asked(self, message: bytes) -> list[Any]:
        """Which session, or why none, and what goes into a batch."""
        try:
            header, payload = unpack(message)
            name = int(header["session"])
            with self._lock:
                session = self._sessions.get(name)
                if self.finished:
                    self.actors_notified += 1
                    return self._nothing(FINISHED)
                if session is None or session.timestep is not None:
                    return self._nothing(UNKNOWN)
                (record,) = session.questions.from_bytes(payload)
                asked = session.questions.view(record)
                check_extras(asked.timestep.extras, self._spec)
                session.timestep, session.last_seen = asked.timestep, time.monotonic()
            session.telemetry = {name: header[name] for name in ("phases", "events") if name in header}
            if asked.crashed.any():
                session.trajectories.drop(asked.crashed)
            return [np.int64(name), *leaves((asked.timestep.policy_inputs(), session.state, asked.noise))]
        except (ValueError, KeyError, TypeError):
            return self._nothing(MALFORMED)

    def _nothing(self, why: int) -> list[Any]:
        return [np.int64(why), *(np.zeros([0, *leaf.shape[1:]], leaf.dtype.as_numpy_dtype) for leaf in self._leaves)]

    def _refusal(self, why: int) -> list[Any]:
        return [pack(REPLY_HEADERS[int(why)]), np.array([], object)]

    def _answered(self, name: int, *answers: Any) -> list[Any]:
        output, (version, share), state = ActOutput(*answers[:3]), answers[3:5], answers[5:]
        session = self._sessions[int(name)]
        timestep, trajectories, messages = session.timestep, session.trajectories, []
        if trajectories.add(timestep, output, session.state, version):
            header = {"task": session.task, "dropped": trajectories.dropped(), **session.telemetry}
            for payload in trajectories.messages():
                messages += split_message(header, payload)
            trajectories.add(timestep, output, session.state, version)  # step T is step 0 of the next ones
        session.state = self._state(state)
        self.rows, self.batches = self.rows + len(share), self.batches + float(share.sum())
        record = session.replies.empty(1)
        for field, value in zip(session.replies.view(record), output, strict=True):
            field[0] = value
        session.timestep = None
        return [pack({}, memoryview(record.view(np.uint8))), np.array(messages, object)]


UNKNOWN, MALFORMED, FINISHED = -1, -2, -3  # in place of a session
REPLY_HEADERS: dict[int, dict[str, Any]] = {
    UNKNOWN: {"refused": "it does not know us any more"},
    MALFORMED: {"refused": "it does not understand us"},
    FINISHED: {"finished": True},
}
