"""The handshake request: the settings and layouts on which an actor and its learner must agree. And the last message of
an actor whose environments fail.

Not here: the learner's answer (mlma/learning/admission.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from mlma.core.config import Config
from mlma.core.flat_weights import FlatWeights
from mlma.core.own_code import find_algorithm
from mlma.core.record_layout import RecordLayout
from mlma.envs.failures import EnvironmentFailedError, SimulatorLostError
from mlma.transport.client import Client
from mlma.transport.protocol import HandshakeRefusedError, LearnerLostError
from mlma.utils.child_process import PARENT_PID_ENV

MUST_MATCH = (
    "level_name", "algorithm", "agent_name", "unroll_length", "num_action_repeats", "width", "height", "color_mode",
    "num_stacked_frames", "pixel_scaling", "sticky_actions", "noop_max", "fire_reset", "life_loss_ends_return",
    "env_args", "full_action_space", "n_step", "inference", "action_bounds", "normalize_observations", "action_spread",
)  # fmt: skip
# With a replay, actors compute the first priorities, and how much an actor explores depends on those of all.
MUST_MATCH_WITH_REPLAY = (
    "discounting", "reward_clipping", "priority_eta", "exploration_base", "exploration_exponent",
)  # fmt: skip


def handshake_request(config: Config, layout: RecordLayout, weights: FlatWeights) -> dict[str, Any]:
    """Name -> value of everything that must be equal on both sides."""
    with_replay = MUST_MATCH_WITH_REPLAY if find_algorithm(config.run.algorithm).uses_replay else ()
    flags = {name: config.get(name) for name in (*MUST_MATCH, *with_replay)}
    return flags | {"trajectory": layout.signature, "weights": weights.signature}


@contextlib.contextmanager
def failures_reported(connect: Callable[[], Client], identity: dict[str, Any]) -> Iterator[None]:
    """Tells the learner why this actor ends if its environments fail; it would only be silent otherwise. The learner of
    local training reads the logs of its actors instead."""
    try:
        yield
    except (EnvironmentFailedError, SimulatorLostError) as failure:
        if PARENT_PID_ENV not in os.environ:
            with contextlib.suppress(LearnerLostError, HandshakeRefusedError):  # then nobody is there to be told
                client = connect()
                client.handshake(identity | {"failed": failure.line})
                client.close()
        raise
