"""Writes the steps of E environments into trajectories: in an actor, or in its learner with --inference=learner.

Not here: the byte layout (mlma/core/record_layout.py), the callers (mlma/acting/local_policy.py, inference_server.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mlma.core.record_layout import RecordLayout

MAX_PAYLOAD_BYTES = 2**21  # of several trajectories in one message; a longer trajectory has a payload of its own


class TrajectoryWriter:
    """The trajectories in progress: one record per environment, written in place and sent when complete."""

    def __init__(
        self,
        layout: RecordLayout,
        num_envs: int,
        unroll_length: int,
        task: int,
        env_indices: Any = 0,
        seed: int = 0,
        initial_priorities: Callable[..., Any] | None = None,
    ) -> None:
        """`env_indices` are the run-wide indices of the environments, `seed` is the first of their random streams.
        `initial_priorities`, of the agent, is called only if the layout has a field for priorities."""
        self._records = layout.empty(num_envs)
        self._view = layout.view(self._records)
        self._steps = [*self._view.timesteps[:-1], *self._view.act_outputs]
        self._length, self._t, self._sequence_number = unroll_length, 0, 0
        self._view.actor_id[:], self._view.env_index[:] = task, env_indices
        self._view.env_stream_id[:] = seed + np.arange(num_envs)
        self._initial_priorities = initial_priorities if self._view.initial_priorities is not None else None
        self._broken, self._dropped = np.zeros(num_envs, bool), 0
        self._per_message = max(1, MAX_PAYLOAD_BYTES // layout.dtype.itemsize)  # trajectories in a message

    def add(self, timestep: Any, output: Any, agent_state: Any, weights_version: int) -> bool:
        """Writes one step of all environments, with the agent state before it. True if trajectories are complete."""
        if self._t == 0:
            tf.nest.map_structure(_fill_field, self._view.agent_state, agent_state)
            self._view.weights_version[:] = weights_version
            self._view.sequence_number[:] = self._sequence_number
            self._sequence_number += 1  # dropped trajectories count too, so that no window of a replay spans the gap
        for field, value in zip(self._steps, (*timestep[:-1], *output), strict=True):
            field[:, self._t] = value
        for name, field in self._view.timesteps.extras.items():
            field[:, self._t] = timestep.extras[name]
        self._t += 1
        return self._t > self._length

    def messages(self) -> list[memoryview]:
        """The payloads of the complete trajectories, without dropped ones; the next `add` starts to overwrite them."""
        self._t = 0
        if self._initial_priorities:
            steps, acted = self._view.timesteps._replace(observation=None), self._view.act_outputs
            steps, acted = tf.nest.map_structure(_time_first, (steps, acted))  # [T+1, E]
            self._view.initial_priorities[:] = self._initial_priorities(steps, acted).numpy().T  # [E, T]
        intact = self._records[~self._broken] if self._broken.any() else self._records
        self._broken[:] = False
        payloads = [intact[i : i + self._per_message].view(np.uint8) for i in range(0, len(intact), self._per_message)]
        return [memoryview(payload) for payload in payloads]

    def drop(self, environments: Any) -> None:
        """Marks the current trajectories of these environments (bool [E]) as broken; they will not be sent."""
        self._dropped += int((environments & ~self._broken).sum())
        self._broken |= environments

    def dropped(self) -> int:
        """Number of dropped trajectories since the last call."""
        count, self._dropped = self._dropped, 0
        return count


def env_indices(actor: int, actors: int, num_envs: int) -> Any:
    """Run-wide indices of an actor's environments: interleaved, so each actor has some of every level and epsilon."""
    return actor + actors * np.arange(num_envs)


def _time_first(array: Any) -> Any:
    return None if array is None else tf.constant(np.ascontiguousarray(array.swapaxes(0, 1)))


def _fill_field(field: Any, value: Any) -> None:
    if field is not None:
        field[:] = value
