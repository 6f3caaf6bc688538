"""The training loop: when it ends, publishes, reports, and what it does without a sample or with a bad one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from mlma.core.record_layout import RecordLayout, trajectory_spec
from mlma.core.types import NetworkState, Sample
from mlma.learning.dropped_samples import MAX_DROPPED_IN_A_ROW, NonFiniteLossError
from mlma.learning.learner import Learner
from mlma.learning.training_loop import SampleWaiter, Surroundings, training_loop
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.metrics import Metrics
from mlma.monitoring.phase_timer import PhaseTimer
from mlma.replay.trajectory_queue import TrajectoryQueue
from tests.support.samples import VECTOR, small_config
from tests.support.small_learners import make_learner


class Stop:
    """A stop request that is made once the log has this many lines."""

    def __init__(self, log_lines: Callable[[], list[str]], lines: int) -> None:
        self._log_lines, self._lines = log_lines, lines

    @property
    def requested(self) -> bool:
        return len(self._log_lines()) >= self._lines


class LateQueue(TrajectoryQueue):
    """Has no sample at every other call, as if actors were slow."""

    calls = 0

    def sample(self, timeout: float) -> Sample | None:
        self.calls += 1
        return super().sample(timeout) if self.calls % 2 == 0 else None


class Reports:
    """A listener that notes the learner step of each report."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.rows: list[Mapping[str, float]] = []

    def on_report(self, row: Mapping[str, float]) -> None:
        self.steps.append(row["learner_step"])
        self.rows.append(row)

    def close(self, finished: bool) -> None:
        pass


def run(
    learner: Learner,
    trajectories: int,
    log_lines: Callable[[], list[str]],
    queue_type: type[TrajectoryQueue] = TrajectoryQueue,
    reports: Reports | None = None,
    bad: Sequence[int] = (),
    patience: int = 2,
    **flags: Any,
) -> list[int]:
    """The versions that the loop publishes, given this many trajectories, until it ends or has logged `patience` lines.

    With `reports`, a report is due every three steps. The observations of the `bad` trajectories are infinite.
    """
    report_every_steps = 3 if reports else 0
    config = small_config(
        total_environment_frames=400.0, starvation_warning_seconds=0.4, report_every_steps=report_every_steps, **flags
    )
    layout = RecordLayout(trajectory_spec(VECTOR, NetworkState(None, None), config.learner.unroll_length))
    queue = queue_type(layout, config.learner.batch_size, capacity=40)
    records = layout.empty(trajectories)
    view = layout.view(records)
    view.actor_id[:] = np.arange(trajectories)
    view.timesteps.observation[list(bad)] = np.inf
    queue.insert(records)
    published: list[int] = []

    def publish(version: int, weights: Any) -> None:
        np.testing.assert_array_equal(weights, learner.weights.read())
        published.append(version)

    heartbeat, stop, timer = Heartbeat("", ""), Stop(log_lines, patience), PhaseTimer()
    waiter = SampleWaiter(config, alone=True, silent_actors=lambda: "1 of 2 actors", heartbeat=heartbeat)
    metrics = Metrics(timer, [reports] if reports else [], 1e9, 400.0, every_steps=report_every_steps)
    surroundings = Surroundings(metrics, timer, heartbeat, stop, publish, save=lambda: None)  # type: ignore[arg-type]
    training_loop(config, learner, queue, waiter, surroundings)
    return published


def test_training_ends_at_the_total_frames_and_publishes_the_weights_of_every_step(
    log_lines: Callable[[], list[str]],
) -> None:
    learner = make_learner()
    assert run(learner, 30, log_lines) == list(range(1, 11))
    assert learner.frames == 400
    assert log_lines() == []


@pytest.mark.parametrize("queue_type", [TrajectoryQueue, LateQueue])
def test_reports_by_steps_are_after_the_same_steps_however_late_samples_are(
    queue_type: type[TrajectoryQueue], log_lines: Callable[[], list[str]]
) -> None:
    reports = Reports()
    run(make_learner(), 30, log_lines, queue_type, reports)
    assert reports.steps == [3, 6, 9, 10]


def test_a_bad_sample_is_dropped_with_its_actors_named_and_training_goes_on(
    log_lines: Callable[[], list[str]],
) -> None:
    learner = make_learner()
    reports = Reports()
    assert run(learner, 30, log_lines, reports=reports, bad=[5]) == list(range(1, 10))
    assert (learner.step, learner.frames) == (9, 400)
    assert reports.steps == [3, 6, 9], "the sample between steps 2 and 3 counted as no step"
    (line,) = log_lines()
    assert "dropped the sample after learner step 2" in line
    assert line.endswith("its data is of actors 4, 5")
    assert reports.rows[-1]["faults/samples_dropped"] == 1


def test_only_several_bad_samples_in_a_row_end_the_run(log_lines: Callable[[], list[str]]) -> None:
    in_a_row = [2 * i for i in range(MAX_DROPPED_IN_A_ROW)]
    learner = make_learner()
    with pytest.raises(NonFiniteLossError, match="learner step 1 for 3 samples in a row"):
        run(learner, 30, log_lines, bad=in_a_row, patience=9)
    assert learner.step == 0
    interrupted = [4 * i for i in range(MAX_DROPPED_IN_A_ROW)]
    learner = make_learner()
    assert run(learner, 30, log_lines, bad=interrupted, patience=99) == list(range(1, 8))


def test_in_lockstep_the_first_bad_sample_ends_the_run(log_lines: Callable[[], list[str]]) -> None:
    """The actors would wait for the weights that it does not give."""
    with pytest.raises(NonFiniteLossError, match="learner step 1, 40 frames"):
        run(make_learner(), 30, log_lines, bad=[0], deterministic=True)


def test_a_learner_without_data_warns_repeatedly_and_can_be_stopped(log_lines: Callable[[], list[str]]) -> None:
    assert run(make_learner(), 2, log_lines) == [1]
    assert len(log_lines()) == 2
    assert all("few trajectories" in line for line in log_lines())
