"""The messages of `--inference=learner`: an actor's request and the learner's reply, one record each.

Not here: the client (mlma/acting/remote_policy.py), the server (mlma/acting/inference_server.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mlma.core.actions import action_spec, policy_size
from mlma.core.record_layout import RecordLayout, per_step, timestep_spec
from mlma.core.types import ActionNoise, ActOutput, ArraySpec, EnvSpec, TimeStep


class InferenceRequest(NamedTuple):
    """What the learner needs to act for an actor, and to write its trajectories."""

    timestep: TimeStep  # [E]
    noise: ActionNoise  # [E]
    crashed: Any  # bool [E], environments that were replaced in the step that led here


def inference_layouts(spec: EnvSpec, num_envs: int) -> tuple[RecordLayout, RecordLayout]:
    """The layouts of an InferenceRequest and of the ActOutput that answers it."""
    floats, action = ArraySpec((num_envs,), "float32"), per_step(action_spec(spec), num_envs)
    logits, crashed = ArraySpec((num_envs, policy_size(spec)), "float32"), ArraySpec((num_envs,), "bool")
    noise = ActionNoise(action._replace(dtype="float32"), floats)
    request = InferenceRequest(timestep_spec(spec, num_envs), noise, crashed)
    return RecordLayout(request), RecordLayout(ActOutput(action, logits, floats))
