"""What becomes of a sample without a finite loss and gradient: it is dropped, and only several in a row end the run.

One such sample is an accident of its data; several mean that the weights themselves are the reason. Not here: the
update, which leaves the weights as they are (mlma/learning/learner.py).
"""

from __future__ import annotations

import logging
import math

import numpy as np

from mlma.core.config import Config
from mlma.core.types import Sample
from mlma.learning.learner import StepResult
from mlma.monitoring.metrics import Metrics

logger = logging.getLogger(__name__)

MAX_DROPPED_IN_A_ROW = 3  # the last of these ends the run
MAX_NAMED_ACTORS = 8  # of a sample, in its line of the log


class NonFiniteLossError(Exception):
    """Losses or gradients are not finite; the weights are still those of the last step where they were."""


class DroppedSamples:
    """Counts dropped samples. What is dropped is the same on all ranks, so all of them end together."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        # In lockstep the actors would wait for the weights that a dropped sample does not give.
        self._limit = 1 if config.run.deterministic else MAX_DROPPED_IN_A_ROW
        self._metrics, self._in_a_row = metrics, 0

    def note(self, sample: Sample | None, result: StepResult, step: int, frames: int) -> None:
        """Notes the outcome of an update with `sample`; NonFiniteLossError if too many in a row were dropped."""
        if not result.dropped:
            self._in_a_row = 0 if result.contributors else self._in_a_row
            return
        self._in_a_row += 1
        if sample is not None:
            self._metrics.count_fault("samples_dropped")
            loss = result.metrics.get("loss/total", math.nan)  # of this rank; others may be to blame
            logger.warning(
                "dropped the sample after learner step %d: loss or gradient is not finite; this learner's loss is %g, "
                "its data is of %s",
                step,
                loss,
                actors_of(sample),
            )
        if self._in_a_row >= self._limit:
            samples = "" if self._limit == 1 else f" for {self._limit} samples in a row"
            raise NonFiniteLossError(
                f"loss or gradient is not finite at learner step {step + 1}{samples}, {frames} frames"
            )


def actors_of(sample: Sample) -> str:
    """The actors that collected a sample; the first few if there are many."""
    actors = np.unique(np.asarray(sample.trajectory.actor_id)).tolist()
    more = f" and {len(actors) - MAX_NAMED_ACTORS} more" if len(actors) > MAX_NAMED_ACTORS else ""
    return f"actors {', '.join(map(str, actors[:MAX_NAMED_ACTORS]))}{more}"
