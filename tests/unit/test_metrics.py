"""Metrics: what is reported, over which steps, episodes and learners."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from mlma.monitoring.episode_statistics import EPISODE_WINDOW, EpisodeStatistics
from mlma.monitoring.metrics import Metrics, WeightsDivergedError
from mlma.monitoring.phase_timer import ACTOR_PHASES, PhaseTimer
from tests.support.samples import Rows, make_metrics


def test_a_gauge_that_cannot_be_read_is_nan_and_logged_once(log_lines: Callable[[], list[str]]) -> None:
    def gauge() -> float:
        raise OSError(24, "Too many open files", "/proc/stat")

    metrics = make_metrics(rows := Rows())
    metrics.add_gauges({"host/busy": gauge})
    metrics.add_local_gauges({"evaluation/mean": gauge})
    for step in range(3):
        metrics.report(step, step, lambda: 0)
    assert all(math.isnan(row["host/busy"]) and math.isnan(row["evaluation/mean"]) for row in rows)
    assert log_lines() == [
        f"the gauge {name} failed: /proc/stat: Too many open files; training continues"
        for name in ("host/busy", "evaluation/mean")
    ]


def metrics_and_rows(every: float = 0.0) -> tuple[Metrics, Rows]:
    """Metrics that report `every` seconds, and the rows that they have reported."""
    rows = Rows()
    return make_metrics(rows, every_seconds=every), rows


def test_episode_statistics_are_over_the_last_hundred() -> None:
    metrics, rows = metrics_and_rows()
    assert EPISODE_WINDOW == 100
    assert math.isnan(metrics.episodes.mean_return())
    metrics.episodes.add([1000.0] * 50, [4] * 50)
    metrics.report(1, 10, lambda: 0)
    assert not metrics.episodes.full_window()
    metrics.episodes.add([float(i) for i in range(100)], [8] * 100)
    metrics.report(2, 20, lambda: 0)
    assert metrics.episodes.full_window()
    assert metrics.episodes.mean_return() == pytest.approx(49.5)
    assert [row["episodes"] for row in rows] == [50, 150]
    columns = {name: rows[1][name] for name in ("return/mean", "return/median", "return/max", "episode_frames")}
    assert columns == {"return/mean": 49.5, "return/median": 49.5, "return/max": 99.0, "episode_frames": 8.0}


def test_a_row_averages_its_steps_and_takes_the_maximum_of_maxima() -> None:
    metrics, rows = metrics_and_rows()
    for loss, lag in ((1.0, 5.0), (3.0, 2.0)):
        metrics.add({"loss": loss, "lag/max": lag})
    metrics.count_fault("messages_refused")
    metrics.add_gauges({"queue": lambda: 0.25})
    metrics.report(2, 40, lambda: 0)
    metrics.add({"loss": 7.0, "lag/max": 1.0})
    metrics.report(3, 60, lambda: 0)
    assert [row["loss"] for row in rows] == [2.0, 7.0]
    assert [row["lag/max"] for row in rows] == [5.0, 1.0]
    assert rows[1]["faults/messages_refused"] == 1
    assert rows[0]["queue"] == 0.25
    assert rows[0]["frames_per_second"] > 0
    assert rows[0]["eta_seconds"] > 0
    assert (rows[1]["frames"], rows[1]["learner_step"]) == (60, 3)


def two_learners(**other_part: Any) -> tuple[Metrics, Rows]:
    """Metrics of rank 0 of two; the other rank has collected the same, except for `other_part`."""
    rows = Rows()

    def gather(data: bytes) -> list[bytes]:
        return [data, json.dumps(json.loads(data) | other_part).encode()]

    return make_metrics(rows, gather=gather), rows


def test_a_report_is_over_the_episodes_losses_waits_and_faults_of_all_learners() -> None:
    other = {
        "ended": [[5.0, 8.0, 0], [6.0, 8.0, 0]],
        "num_ended": 2,
        "sums": {"loss": 10.0},
        "adds": 3,
        "maxima": {"lag/max": 9.0},
        "faults": {"actors_restarted": 2},
        "gauges": {"queue": 1.0},
        "actors": [
            {"task": 0, "silent": 1.0, "rate": 10.0, "shares": dict.fromkeys(ACTOR_PHASES, 0.2)},
            {"task": 1, "silent": 99.0, "rate": 0.0},
        ],
    }
    metrics, rows = two_learners(**other)
    metrics.episodes.add([1.0], [4])
    metrics.add({"loss": 2.0, "lag/max": 3.0})
    metrics.count_fault("actors_restarted")
    metrics.add_gauges({"queue": lambda: 0.0})
    metrics.report(1, 10, lambda: 0)
    columns = {name: rows[0][name] for name in ("episodes", "return/mean", "loss", "lag/max", "queue", "actors/wait")}
    assert columns == {"episodes": 3, "return/mean": 4.0, "loss": 3.0, "lag/max": 9.0, "queue": 0.5, "actors/wait": 0.2}
    assert rows[0]["actors/count"] == 1, "one has been silent for too long"
    assert rows[0]["faults/actors_restarted"] == 3


def test_the_last_hundred_episodes_are_of_all_learners() -> None:
    """Otherwise the mean would be that of the last learner alone, which may have some of the levels only."""
    statistics = EpisodeStatistics()
    parts = [
        {"ended": [[float(rank), 4, 0]] * count, "greedy": [float(rank)] * count, "num_ended": count}
        for rank, count in enumerate((300, 100, 0))
    ]
    statistics.merge(parts)
    row = statistics.row()
    assert row["episodes"] == 400
    assert row["return/mean"] == row["return/greedy"] == 0.25, "a quarter of the episodes ended at the second learner"


def test_the_mean_over_greedy_episodes_counts_once_there_are_a_hundred_of_them() -> None:
    statistics = EpisodeStatistics()
    for greedy in (1, 98, 1):
        assert not statistics.full_window()
        statistics.add([5.0] * 100, [4] * 100, greedy=[True] * greedy + [False] * (100 - greedy))
        statistics.merge([statistics.drain()])
    assert statistics.full_window()


@pytest.mark.parametrize("name", ["checksum", "step", "frames"])
def test_learners_that_differ_are_detected_at_the_next_report(name: str) -> None:
    with pytest.raises(WeightsDivergedError, match=rf"differ in {name} at step 7"):
        two_learners(**{name: 99})[0].report(7, 10, lambda: 5)
    two_learners(checksum=5)[0].report(7, 10, lambda: 5)


def test_nothing_is_reported_before_it_is_due() -> None:
    metrics, rows = metrics_and_rows(every=1000.0)
    assert not metrics.report_due(1)
    assert metrics_and_rows(every=0.0)[0].report_due(1)
    assert not make_metrics().report_due(1), "only the learner with listeners requests a report"
    by_steps = make_metrics(rows, every_steps=3)
    assert [by_steps.report_due(step) for step in range(1, 5)] == [False, False, True, True]
    assert rows == []


def test_the_time_of_a_phase_is_its_share() -> None:
    timer, rows = PhaseTimer(), Rows()
    metrics = Metrics(timer, [rows], 0.0, 1000)
    for _ in range(2):
        with timer.phase("wait"):
            time.sleep(0.05)
    metrics.report(1, 10, lambda: 0)
    assert 0.5 < rows[0]["learner/wait"] <= 1.0


def test_the_phases_of_actors_are_shares_of_the_time_since_the_last_report() -> None:
    metrics, rows = metrics_and_rows()
    for second in range(4):
        metrics.actors.record(
            0, {"simulate": 10.0 + 3 * second, "infer": 5.0 + second, "send": 0.0, "wait": 1.0, "fetch": 0.0}, 80
        )
        if second < 2:  # the actor was restarted and counts from zero again
            metrics.actors.record(
                1, {"simulate": 9.0 - 8 * second, "infer": 0.0, "send": 0.0, "wait": 0.0, "fetch": 0.0}, 80
            )
        metrics.report(second, 10, lambda: 0)
    assert math.isnan(rows[0]["actors/wait"]), "a difference needs two values"
    assert [(row["actors/simulate"], row["actors/infer"], row["actors/wait"]) for row in rows[1:]] == [
        (0.75, 0.25, 0)
    ] * 3
    assert [row["actors/count"] for row in rows] == [2, 2, 2, 2]


def test_the_learner_that_waits_least_for_the_others_is_the_slowest() -> None:
    gauges = {"learner/allreduce": 0.05, "learner/wait": 0.7, "learner/gradient": 0.2}
    metrics, rows = two_learners(gauges=gauges)
    metrics.timer.add([("allreduce", 0.0, 1e9), ("wait", 0.0, 0.0)])
    metrics.report(1, 10, lambda: 0)
    assert {name: rows[0][f"slowest/{name}"] for name in ("rank", "wait", "allreduce", "gradient")} == {
        "rank": 1, "wait": 0.7, "allreduce": 0.05, "gradient": 0.2,
    }  # fmt: skip


def test_a_clock_is_reported_as_the_share_of_the_time_in_which_it_ran() -> None:
    metrics, rows = metrics_and_rows()
    clock = [100.0]
    metrics.add_clocks({"receiver/wait": lambda: clock[0]})
    metrics.report(1, 10, lambda: 0)
    began = time.monotonic()
    time.sleep(0.05)
    clock[0] += 0.02
    metrics.report(2, 20, lambda: 0)
    assert 0.02 / (time.monotonic() - began + 0.01) < rows[1]["receiver/wait"] <= 0.4


def test_time_and_rates_continue_from_where_a_resumed_run_stopped() -> None:
    metrics, rows = metrics_and_rows()
    metrics.begin(step=100, frames=900, seconds=50.0)
    assert 50.0 <= metrics.seconds < 60.0
    metrics.report(100, 900, lambda: 0)
    assert rows[0]["frames_per_second"] == 0
    assert math.isnan(rows[0]["eta_seconds"])
