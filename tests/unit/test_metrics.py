"""Metrics and their files: what is reported, and that it can be read again, also after a run was resumed."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlma.core.config import parse
from mlma.monitoring.episode_statistics import EPISODE_WINDOW
from mlma.monitoring.loggers import CsvWriter, DeterministicCsvLogger, TensorBoardWriter, make_loggers
from mlma.monitoring.metrics import Metrics, Row, WeightsDivergedError
from mlma.monitoring.phase_timer import ACTOR_PHASES, PhaseTimer
from tests.support.samples import Rows, make_metrics


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, resume_frames: int, *rows: Row) -> None:
    writer = CsvWriter(path, resume_frames)
    for row in rows:
        writer.on_report(row)


def test_rows_are_appended_under_their_names(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path, 0, {"frames": 100, "loss": 0.1234567}, {"frames": 200, "loss": float("nan")})
    assert read(path) == [{"frames": "100", "loss": "0.123457"}, {"frames": "200", "loss": "nan"}]


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path, 0, *({"frames": frames, "loss": 1.0} for frames in (100, 200, 300)))
    write(path, 200, {"frames": 250, "loss": 2.0})
    assert [(row["frames"], row["loss"]) for row in read(path)] == [("100", "1"), ("200", "1"), ("250", "2")]


def test_a_run_that_starts_from_scratch_drops_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path, 0, {"frames": 100, "loss": 1.0})
    write(path, 0, {"frames": 50, "gain": 3.0})
    assert read(path) == [{"frames": "50", "gain": "3"}]


def test_large_frame_counts_are_written_in_full(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path, 0, {"frames": 123_456_789})
    assert read(path) == [{"frames": "123456789"}]


def test_half_a_row_and_garbage_of_a_crash_do_not_reach_the_next_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path, 0, {"frames": 100, "a": 1.0}, {"frames": 200, "a": 2.0})
    with path.open("ab") as file:
        file.write(b"300,3")
    write(path, 200, {"frames": 300, "a": 4.0})
    assert read(path) == [{"frames": "100", "a": "1"}, {"frames": "200", "a": "2"}, {"frames": "300", "a": "4"}]
    with path.open("ab") as file:
        file.write(bytes(100) + b"\xff\xfe,,,,\n")  # blocks that were never written, after a power cut
    write(path, 300, {"frames": 400, "a": 5.0})
    assert [row["frames"] for row in read(path)] == ["100", "200", "300", "400"]
    path.unlink()
    path.mkdir()
    writer = CsvWriter(path, 0)
    for frames in (1, 2):
        with pytest.raises(OSError, match=r"regular file|directory"):
            writer.on_report({"frames": frames})
    path.rmdir()
    writer.on_report({"frames": 3, "a": 1.0})
    assert [row["frames"] for row in read(path)] == ["1", "2", "3"], "rows wait until they can be written"


def test_rows_that_could_not_be_written_are_not_lost_silently(
    tmp_path: Path, log_lines: Callable[[], list[str]]
) -> None:
    (tmp_path / "curve.csv").mkdir()
    metrics = make_metrics(DeterministicCsvLogger(tmp_path / "curve.csv", 0))
    for step in range(3):
        metrics.report(step, step, lambda: 0)
    metrics.close(finished=True)
    assert log_lines()[0].startswith("curve.csv failed: ")
    assert log_lines()[1:] == [f"{tmp_path}/curve.csv lacks 3 rows"]


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


def test_a_new_column_widens_the_file_and_a_missing_one_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path, 0, {"frames": 1, "a": 1.0}, {"frames": 2, "b": 5.0}, {"frames": 3, "a": 2.0, "b": 6.0, "c": 7.0})
    assert read(path) == [
        {"frames": "1", "a": "1", "b": "", "c": ""},
        {"frames": "2", "a": "", "b": "5", "c": ""},
        {"frames": "3", "a": "2", "b": "6", "c": "7"},
    ]
    assert [child.name for child in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_resumed_run_can_widen_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path, 0, {"frames": 1, "a": 1.0})
    write(path, 1, {"frames": 2, "b": 2.0})
    assert read(path) == [{"frames": "1", "a": "1", "b": ""}, {"frames": "2", "a": "", "b": "2"}]


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


def test_a_logger_without_its_package_is_a_one_line_error(tmp_path: Path) -> None:
    for name in ("wandb", "mlflow"):
        if importlib.util.find_spec(name) is None:
            with pytest.raises(ValueError, match=f"--writers=tensorboard,{name}: the package {name} is not installed"):
                make_loggers(f"tensorboard,{name}", tmp_path, {})
    assert make_loggers("", tmp_path, {}) == []
    with pytest.raises(ValueError, match="--writers=comet: comet: no such logger; allowed: tensorboard, wandb, mlflow"):
        parse(["--writers=comet"])


def test_a_service_that_fails_is_logged_once_and_ends_nothing(
    tmp_path: Path, log_lines: Callable[[], list[str]]
) -> None:
    class Broken(Rows):
        """A service that does not respond to the first two reports."""

        name = "mlflow"

        def on_report(self, row: Row) -> None:
            super().on_report(row)
            if len(self) < 3:
                raise MemoryError

    metrics = make_metrics(broken := Broken(), rows := Rows())
    for step in range(4):
        metrics.report(step, step, lambda: 0)
    assert len(broken) == len(rows) == 4
    assert log_lines() == ["mlflow failed: MemoryError; training continues", "mlflow works again, after 2 failures"]


def test_a_curve_has_what_does_not_depend_on_the_clock_with_every_digit(tmp_path: Path) -> None:
    writer = DeterministicCsvLogger(tmp_path / "curve.csv", 0)
    writer.on_report({"frames": 100, "seconds": 1.5, "learner/wait": 0.1, "actors/wait": 0.2, "loss/total": 0.1 + 0.2})
    assert read(tmp_path / "curve.csv") == [{"frames": "100", "loss/total": "0.30000000000000004"}]


def test_tensorboard_reads_every_number_over_frames(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.on_report({"frames": 100, "return/mean": -20.5, "loss": float("nan")})
    writer.on_report({"frames": 2_000_000_000, "return/mean": 20.0, "loss": 0.5})
    log = EventAccumulator(str(tmp_path))
    log.Reload()
    assert sorted(log.Tags()["tensors"]) == ["loss", "return/mean"]

    def values(tag: str) -> list[tuple[int, float]]:
        return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in log.Tensors(tag)]

    assert values("return/mean") == [(100, -20.5), (2_000_000_000, 20.0)]
    assert values("loss") == [(2_000_000_000, 0.5)]  # NaN is left out
