"""Checks of what actors put: the header of a message, and every number of its trajectories that training reads.

The checksum was right and the sender has the token, so this is about bugs, other versions and bad actors. Each check is
a few numpy calls over all trajectories of a message. Not here: the fields that requests for actions have too
(mlma/core/record_checks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlma.core.record_checks import (
    check_actions,
    check_inputs,
    check_magnitude,
    check_outcomes,
    check_range,
    check_spreads,
)
from mlma.core.record_layout import RecordLayout
from mlma.core.refusal import RefusedError
from mlma.core.types import EnvSpec, Trajectory
from mlma.monitoring.phase_timer import ACTOR_PHASES, MAX_EVENTS, Event
from mlma.transport.header_fields import read_events, read_integer, read_level_cache, read_phases, read_task

MAX_DROPPED = 1_000_000  # trajectories that one message may report as dropped
MAX_ENV_INDEX = 2**30
MAX_STREAM_ID = 2**32  # seeds are below 2**31
MAX_SEQUENCE_NUMBER = 2**53
MAX_OUTPUT = 1e9  # of logits, q-values and values
MAX_STATE = 1e6  # of an LSTM's hidden state and cell
MAX_LISTED = 3  # environments or levels in a message
MAX_PRIORITY = 1e12  # TD errors of a sane network are far smaller


class PutHeader(NamedTuple):
    """The header of a message with trajectories."""

    task: int
    part: int
    parts: int
    dropped: int  # trajectories that the actor dropped before these
    phases: dict[str, float]
    events: list[Event]
    level_cache: tuple[int, int]  # hits and misses since the actor's previous report


def read_put_header(header: dict[str, Any], max_parts: int) -> PutHeader:
    """RefusedError for a field that is missing or out of range."""
    parts = read_integer(header, "parts", 1, max_parts, "parts")
    return PutHeader(
        read_task(header),
        read_integer(header, "part", 0, parts - 1, "parts"),
        parts,
        read_integer(header, "dropped", 0, MAX_DROPPED) if "dropped" in header else 0,
        read_phases(header, ACTOR_PHASES),
        read_events(header, ACTOR_PHASES, MAX_EVENTS),
        read_level_cache(header),
    )


class TrajectoryChecks:
    """Refuses trajectories that would crash, poison or distort training."""

    def __init__(
        self,
        layout: RecordLayout,
        spec: EnvSpec,
        latest_version: Callable[[], float],
        level_names: Sequence[str] = (),
    ) -> None:
        """`latest_version` is the newest version of the weights that an actor can have; `level_names` are those of the
        run."""
        self._level_names = level_names
        self._layout, self._spec, self._latest_version = layout, spec, latest_version

    def __call__(self, task: int, trajectories: Trajectory) -> None:
        """RefusedError unless these trajectories can be ones that actor `task` collected."""
        if not len(trajectories.actor_id):
            raise RefusedError("header", "no trajectories")
        steps, acted = trajectories.timesteps, trajectories.act_outputs
        try:
            check_inputs(steps, self._spec)
            check_outcomes(steps)
        except RefusedError as error:
            raise RefusedError(error.reason, f"{error}{self._origin(trajectories)}") from None
        check_actions("action", acted.action, self._spec)
        check_magnitude("logits", acted.logits, MAX_OUTPUT)
        if self._spec.action_parts:
            check_spreads(acted.logits, self._spec)
        check_magnitude("value", acted.value, MAX_OUTPUT)
        for part in _arrays(trajectories.agent_state):
            check_magnitude("agent_state", part, MAX_STATE)
        check_range("weights_version", trajectories.weights_version, 0, self._latest_version())
        check_range("actor_id", trajectories.actor_id, task, task)
        check_range("env_index", trajectories.env_index, 0, MAX_ENV_INDEX)
        check_range("env_stream_id", trajectories.env_stream_id, 0, MAX_STREAM_ID)
        check_range("sequence_number", trajectories.sequence_number, 0, MAX_SEQUENCE_NUMBER)
        if trajectories.initial_priorities is not None:
            check_range("initial_priorities", trajectories.initial_priorities, 0, MAX_PRIORITY)

    def _origin(self, trajectories: Trajectory) -> str:
        """Which environments numbers come from that are not finite, for a message; of which level, if that is known."""
        steps = trajectories.timesteps
        bad = np.zeros(len(trajectories.env_index), bool)
        for array in (steps.observation, steps.reward, *steps.extras.values()):
            if array.dtype.kind == "f":
                bad |= ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        indices = trajectories.env_index[bad].tolist()
        levels = dict.fromkeys(self._level_names[i % len(self._level_names)] for i in indices if self._level_names)
        names = list(levels) or (list(self._level_names) if len(self._level_names) == 1 else [])
        level = f" of {', '.join(names[:MAX_LISTED])}" if names else ""
        which = f" in environment {', '.join(map(str, indices[:MAX_LISTED]))}" if indices else ""
        return f"{which}{level}"


def _arrays(nest: Any) -> list[Any]:
    """The arrays of an agent state, without its Nones; faster than the general way for so few."""
    if isinstance(nest, (tuple, list)):
        return [array for part in nest for array in _arrays(part)]
    return [] if nest is None else [nest]
