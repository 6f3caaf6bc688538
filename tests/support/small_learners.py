"""Small learners of IMPALA on vectors."""

from __future__ import annotations

from typing import Any

from mlma.distributed.allreduce import SingleProcess
from mlma.learning.learner import Learner
from tests.support.samples import VECTOR, make_impala, small_config

TOTAL_FRAMES = 400.0  # of a run
FRAMES = 2 * 5 * VECTOR.action_repeats  # in a sample


def make_learner(**changes: Any) -> Learner:
    config = small_config(**({"total_environment_frames": TOTAL_FRAMES} | changes))
    return Learner(config, make_impala(config), VECTOR.action_repeats, SingleProcess())
