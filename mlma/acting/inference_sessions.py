"""The sessions of an inference server: what it keeps of each actor, and the checks of what an actor sends to one.

A session's id is a secret of the connection that opened it. An actor has one session, and all sessions together have a
limited memory. Not here: the network and its batches (mlma/acting/inference_server.py).
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from mlma.acting.trajectory_writer import TrajectoryWriter
from mlma.core.record_checks import check_flags, check_inputs, check_outcomes, check_range
from mlma.core.record_layout import RecordLayout
from mlma.core.refusal import RefusedError, shown
from mlma.core.types import EnvSpec, TimeStep
from mlma.monitoring.phase_timer import ACTOR_PHASES, MAX_EVENTS
from mlma.transport.header_fields import VALUE_CHARACTERS, read_events, read_integer, read_level_cache, read_phases
from mlma.transport.inference_messages import InferenceRequest, inference_layouts
from mlma.transport.messages import MAX_MESSAGE_BYTES

SESSION_TIMEOUT_SECONDS = 600.0  # without a request, after which an actor counts as gone
SESSION_ID_BITS = 62  # of a random number, which nobody guesses
SPARE_MEMORY_BYTES = 2**26  # for sessions, in addition to several times what the expected actors need
MEMORY_FACTOR = 4  # since an actor may have more environments than its learner expects


class ActorSession:
    """What the server keeps of one actor, from its handshake on."""

    def __init__(self, spec: EnvSpec, task: int, num_envs: int, agent_state: Any, writer: TrajectoryWriter) -> None:
        self.task = task
        self.request_layout, self.reply_layout = inference_layouts(spec, num_envs)
        self.agent_state, self.writer = agent_state, writer
        self.timestep: TimeStep | None = None  # of the request in progress
        self.telemetry: dict[str, Any] = {}
        self.level_cache: dict[str, Any] = {}  # for one message
        self.last_seen = time.monotonic()
        self.num_envs = num_envs


class SessionTable:
    """The sessions of all actors. The caller holds a lock."""

    def __init__(self, spec: EnvSpec, layout: RecordLayout, num_actors: int, envs_per_actor: int) -> None:
        """`layout` is that of trajectories. Actors 0 .. num_actors-1 are expected, with so many environments each; they
        have memory of their own, which others cannot take."""
        request_layout, _ = inference_layouts(spec, 1)
        self._request_bytes = request_layout.dtype.itemsize  # of one environment
        self._bytes_per_env = layout.dtype.itemsize + 2 * self._request_bytes
        self._num_expected = num_actors
        self._max_bytes = MEMORY_FACTOR * num_actors * envs_per_actor * self._bytes_per_env + SPARE_MEMORY_BYTES
        self._sessions: dict[int, ActorSession] = {}

    def check_size(self, task: int, num_envs: Any) -> None:
        """RefusedError if a session with so many environments is too large, before anything is allocated."""
        if type(num_envs) is not int or num_envs < 1:
            raise RefusedError(
                "header", f"envs={shown(num_envs, VALUE_CHARACTERS)}: must be a whole number of at least 1"
            )
        allowed = MAX_MESSAGE_BYTES // self._request_bytes
        if num_envs > allowed:
            raise RefusedError(
                "header",
                f"--envs_per_actor={shown(num_envs, VALUE_CHARACTERS)}: a request of --inference=learner would have "
                f"more than the {MAX_MESSAGE_BYTES:,} bytes of a message; allowed: --envs_per_actor of at most "
                f"{allowed}",
            )
        self._forget(task)
        is_expected = task < self._num_expected
        others = [s.num_envs for s in self._sessions.values() if (s.task < self._num_expected) == is_expected]
        held = sum(others) * self._bytes_per_env
        needed = num_envs * self._bytes_per_env
        if held + needed > self._max_bytes:
            raise RefusedError(
                "memory",
                f"--envs_per_actor={num_envs}: an inference session needs {needed:,} bytes; others use {held:,} of the "
                f"{self._max_bytes:,} that this learner has for the sessions of {len(others)} actors",
            )

    def _forget(self, task: int) -> None:
        """Closes this actor's session, since an actor has one, and those that have expired."""
        oldest = time.monotonic() - SESSION_TIMEOUT_SECONDS
        self._sessions = {
            name: session
            for name, session in self._sessions.items()
            if session.last_seen > oldest and session.task != task
        }

    def add(self, session: ActorSession) -> int:
        """The id of a new session."""
        self._forget(session.task)
        session_id = secrets.randbits(SESSION_ID_BITS)
        self._sessions[session_id] = session
        return session_id

    def get(self, session_id: int) -> ActorSession:
        """RefusedError if there is no such session."""
        if (session := self._sessions.get(session_id)) is None:
            raise RefusedError("session", "the session has expired or is unknown")
        return session

    def close(self, session_id: int) -> None:
        """Forgets a session."""
        self._sessions.pop(session_id, None)

    def __len__(self) -> int:
        return len(self._sessions)


def read_session_id(header: dict[str, Any]) -> int:
    """The id that a request names."""
    return read_integer(header, "session", 0, 2**SESSION_ID_BITS - 1)


def read_telemetry(header: dict[str, Any]) -> dict[str, Any]:
    """What an actor reports with the last request of a trajectory; empty otherwise."""
    telemetry: dict[str, Any] = {}
    if "phases" in header:
        telemetry["phases"] = read_phases(header, ACTOR_PHASES)
    if "events" in header:
        telemetry["events"] = read_events(header, ACTOR_PHASES, MAX_EVENTS)
    return telemetry


def read_cache_news(header: dict[str, Any]) -> dict[str, Any]:
    """What an actor reports of its level cache; empty without news."""
    return {"level_cache": list(read_level_cache(header))} if "level_cache" in header else {}


def check_request(request: InferenceRequest, spec: EnvSpec) -> None:
    """RefusedError for numbers that would reach the network or a trajectory."""
    check_inputs(request.timestep, spec)
    check_outcomes(request.timestep)
    check_range("uniform", request.noise.uniform, 0, 1)
    check_range("epsilon", request.noise.epsilon, 0, 1)
    check_flags("crashed", request.crashed)
