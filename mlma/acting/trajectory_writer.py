"""Trajectories that are being filled, where acting happens: in an actor, or in its learner with --inference=learner.

Not here: how they travel (mlma/core/record_layout.py), who fills them (mlma/acting/local_policy.py, mlma/acting/inference_server.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mlma.core.record_layout import RecordLayout


class TrajectoryWriter:
    """The trajectories that are being filled: one record per environment, written in place, sent when full."""

    def __init__(
        self,
        layout: RecordLayout,
        num_envs: int,
        unroll_length: int,
        task: int,
        places: Any = 0,
        seed: int = 0,
        errors: Callable[..., Any] | None = None,
    ) -> None:
        """`errors` is the agent's, wanted where the layout has a field for them; `seed` is the environments'."""
        self._records = layout.empty(num_envs)
        self._view = layout.view(self._records)
        self._steps = [*self._view.timesteps[:-1], *self._view.act_outputs]
        self._length, self._t, self._number = unroll_length, 0, 0
        self._view.actor_id[:], self._view.env_index[:] = task, places
        self._view.env_stream_id[:] = seed + np.arange(num_envs)
        self._errors = errors if self._view.initial_priorities is not None else None
        self._broken, self._dropped = np.zeros(num_envs, bool), 0
        self._group = max(1, (2**21) // layout.dtype.itemsize)  # trajectories in a message

    def add(self, timestep: Any, output: Any, agent_state: Any, weights_version: int) -> bool:
        """Writes one step of all environments; True when the trajectories are complete. `agent_state` is before the step."""
        if self._t == 0:
            tf.nest.map_structure(_fill_field, self._view.agent_state, agent_state)
            self._view.weights_version[:] = weights_version
            self._view.sequence_number[:] = self._number
            self._number += 1  # also of one that is dropped: no window of a replay crosses the gap
        for field, value in zip(self._steps, (*timestep[:-1], *output), strict=True):
            field[:, self._t] = value
        for name, field in self._view.timesteps.extras.items():
            field[:, self._t] = timestep.extras[name]
        self._t += 1
        return self._t > self._length

    def messages(self) -> list[memoryview]:
        """The complete trajectories as payloads, but for those that were dropped; the next `add` begins to overwrite them."""
        self._t = 0
        if self._errors:
            steps, acted = self._view.timesteps._replace(observation=None), self._view.act_outputs
            steps, acted = tf.nest.map_structure(_time_first, (steps, acted))  # [T+1, E]
            self._view.initial_priorities[:] = self._errors(steps, acted).numpy().T  # [E, T]
        whole = self._records[~self._broken] if self._broken.any() else self._records
        self._broken[:] = False
        raw = [whole[i : i + self._group].view(np.uint8) for i in range(0, len(whole), self._group)]
        return [memoryview(each) for each in raw]

    def drop(self, environments: Any) -> None:
        """The trajectories that these (bool [E]) are in the middle of are broken and will not be sent."""
        self._dropped += int((environments & ~self._broken).sum())
        self._broken |= environments

    def dropped(self) -> int:
        """How many since it was asked for the last time."""
        count, self._dropped = self._dropped, 0
        return count


def env_indices(actor: int, actors: int, num_envs: int) -> Any:
    """Of an actor's environments among those of all actors: dealt out in turn, so that each actor has some of everything."""
    return actor + actors * np.arange(num_envs)


def _time_first(array: Any) -> Any:
    return None if array is None else tf.constant(np.ascontiguousarray(array.swapaxes(0, 1)))


def _fill_field(field: Any, value: Any) -> None:
    if field is not None:
        field[:] = value
