"""What an actor shows its learner with --inference=learner, and what it is told: one record each way.

Not here: who asks (mlma/players.py), who answers (mlma/inference.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mlma import wire
from mlma.types import ActOutput, ArraySpec, Chance, EnvSpec, TimeStep


class Question(NamedTuple):
    """What the learner needs to act for an actor, and to fill its trajectories."""

    timestep: TimeStep  # [E]
    chance: Chance  # [E]
    lost: Any  # bool [E]: replaced in the step that led here


def layouts(spec: EnvSpec, num_envs: int) -> tuple[wire.Layout, wire.Layout]:
    """Of a Question, and of the ActOutput that answers it."""
    number, action = ArraySpec((num_envs,), "float32"), ArraySpec((num_envs,), "int32")
    logits, lost = ArraySpec((num_envs, spec.num_actions), "float32"), ArraySpec((num_envs,), "bool")
    question = Question(wire.timestep_spec(spec, num_envs), Chance(number, number), lost)
    return wire.Layout(question), wire.Layout(ActOutput(action, logits, number))
