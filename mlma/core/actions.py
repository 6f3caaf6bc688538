"""What an action of a level looks like in records, and which outputs of a policy it comes from.

Actions that can be listed are numbered: int32 [], from A logits. An action with real numbers is a vector of its parts,
float32 [N]: the numbers of a Box, or the index of a choice. Its policy has a mean and a log spread for each number of a
Box, all means first, and a logit for each alternative of a choice. Numbers are in the units of the policy, where bounds
on both sides are -1 and 1, and may lie outside: the environment brings them within their bounds
(mlma/envs/action_spaces.py), while the densities are those of the numbers here.

Not here: sampling, densities and entropies (agents/action_distributions.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlma.core.types import ActionPart, ArraySpec, ChoicePart, EnvSpec

MIN_LOG_SPREAD, MAX_LOG_SPREAD = -5.0, 2.0  # of the policy's Gaussians; a spread of 0.007 to 7.4


def action_spec(env: EnvSpec) -> ArraySpec:
    """The array of one action; action selection needs a random number for each of its elements."""
    if not env.action_parts:
        return ArraySpec((), "int32")
    return ArraySpec((sum(part_width(part) for part in env.action_parts),), "float32")


def policy_size(env: EnvSpec) -> int:
    """The number of outputs of a policy, or of q-values, for one action."""
    if not env.action_parts:
        return env.num_actions
    return sum(num_parameters(part) for part in env.action_parts)


def part_width(part: ActionPart) -> int:
    """The elements that this part has in an action."""
    return 1 if isinstance(part, ChoicePart) else len(part.bounded)


def num_parameters(part: ActionPart) -> int:
    """The outputs of a policy that belong to this part."""
    return part.alternatives if isinstance(part, ChoicePart) else 2 * len(part.bounded)


def split_policy(env: EnvSpec, outputs: Any) -> list[Any]:
    """The outputs [..., P] of a policy by part, as views."""
    ends = np.cumsum([num_parameters(part) for part in env.action_parts])
    return [outputs[..., end - num_parameters(part) : end] for part, end in zip(env.action_parts, ends, strict=True)]


def greedy_actions(env: EnvSpec, outputs: Any) -> Any:
    """The likeliest actions [E, ...] by the outputs [E, P] of a policy: the mean of a Gaussian."""
    if not env.action_parts:
        return outputs.argmax(axis=-1).astype(np.int32)
    columns = [
        parameters.argmax(axis=-1)[:, np.newaxis]
        if isinstance(part, ChoicePart)
        else parameters[:, : len(part.bounded)]
        for part, parameters in zip(env.action_parts, split_policy(env, outputs), strict=True)
    ]
    return np.concatenate(columns, axis=-1).astype(np.float32)
