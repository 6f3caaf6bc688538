"""The handshake request: the settings and layouts on which an actor and its learner must agree.

Not here: the learner's answer (mlma/learning/admission.py).
"""

from __future__ import annotations

from typing import Any

from mlma.core.config import Config
from mlma.core.flat_weights import FlatWeights
from mlma.core.record_layout import RecordLayout

MUST_MATCH = (
    "level_name", "algorithm", "agent_name", "unroll_length", "num_action_repeats", "width", "height", "color_mode",
    "num_stacked_frames", "pixel_scaling", "sticky_actions", "noop_max", "fire_reset", "life_loss_ends_return",
    "env_args", "full_action_space", "n_step", "inference", "action_bounds", "normalize_observations", "action_spread",
)  # fmt: skip


def handshake_request(config: Config, layout: RecordLayout, weights: FlatWeights) -> dict[str, Any]:
    """Name -> value of everything that must be equal on both sides."""
    flags = {name: config.get(name) for name in MUST_MATCH}
    return flags | {"trajectory": layout.signature, "weights": weights.signature}
