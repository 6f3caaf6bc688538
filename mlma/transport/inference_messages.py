"""What an actor shows its learner with --inference=learner, and what it is told: one record each way.

Not here: who asks (mlma/acting/local_policy.py), who answers (mlma/acting/inference_server.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mlma.core.record_layout import RecordLayout, timestep_spec
from mlma.core.types import ActionNoise, ActOutput, ArraySpec, EnvSpec, TimeStep


class InferenceRequest(NamedTuple):
    """What the learner needs to act for an actor, and to fill its trajectories."""

    timestep: TimeStep  # [E]
    noise: ActionNoise  # [E]
    crashed: Any  # bool [E]: replaced in the step that led here


def inference_layouts(spec: EnvSpec, num_envs: int) -> tuple[RecordLayout, RecordLayout]:
    """Of a Question, and of the ActOutput that answers it."""
    number, action = ArraySpec((num_envs,), "float32"), ArraySpec((num_envs,), "int32")
    logits, crashed = ArraySpec((num_envs, spec.num_actions), "float32"), ArraySpec((num_envs,), "bool")
    question = InferenceRequest(timestep_spec(spec, num_envs), ActionNoise(number, number), crashed)
    return RecordLayout(question), RecordLayout(ActOutput(action, logits, number))
