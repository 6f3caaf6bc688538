"""The files of metrics: that they can be read again, also after a run was resumed or a disk was full."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.img_mime_type_detector import from_bytes

from mlma.core.config import Config, flag_table, parse
from mlma.monitoring.loggers import CsvWriter, DeterministicCsvLogger, TensorBoardWriter, make_loggers
from mlma.monitoring.loggers.tensorboard import PLACES, write_evaluation
from mlma.monitoring.loggers.trackers import TrackioWriter
from mlma.monitoring.metrics import Row
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


def test_a_logger_without_its_package_is_a_one_line_error(tmp_path: Path) -> None:
    for name in ("wandb", "mlflow", "trackio"):
        if importlib.util.find_spec(name) is None:
            with pytest.raises(ValueError, match=f"--writers=tensorboard,{name}: the package {name} is not installed"):
                make_loggers(f"tensorboard,{name}", tmp_path, {})
    assert make_loggers("", tmp_path, {}) == []
    with pytest.raises(
        ValueError, match="--writers=comet: comet: no such logger; allowed: tensorboard, wandb, mlflow, trackio"
    ):
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
    aliases = ["charts/episodic_return", "rollout/ep_rew_mean"]
    assert sorted(log.Tags()["tensors"]) == [aliases[0], "loss", "return/mean", aliases[1]]

    def values(tag: str) -> list[tuple[int, float]]:
        return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in log.Tensors(tag)]

    assert values("return/mean") == [(100, -20.5), (2_000_000_000, 20.0)]
    assert all(values(alias) == values("return/mean") for alias in aliases)
    assert values("loss") == [(2_000_000_000, 0.5)]  # NaN is left out


def test_tensorboard_has_the_hyperparameters_and_the_configuration(tmp_path: Path) -> None:
    config = Config.from_flags(learning_rate=0.125, level_name="catch", logdir=str(tmp_path), seed=7)
    writer = TensorBoardWriter(tmp_path, config.flags())
    writer.on_report({"frames": 100, "return/mean": 1.0})
    log = EventAccumulator(str(tmp_path))
    log.Reload()
    shown = log.SummaryMetadata("_hparams_/session_start_info").plugin_data
    assert shown.plugin_name == "hparams"
    hparams = HParamsPluginData.FromString(shown.content).session_start_info.hparams
    assert hparams["learning_rate"].number_value == 0.125 and hparams["seed"].number_value == 7
    assert hparams["level_name"].string_value == "catch" and hparams["deterministic"].bool_value is False
    assert set(hparams) | set(PLACES) == set(flag_table()) and not set(hparams) & set(PLACES)
    (text,) = tf.make_ndarray(log.Tensors("config")[0].tensor_proto).reshape(-1)
    assert json.loads(text.decode()) == config.flags()


def test_tensorboard_shows_the_flags_with_which_a_resumed_run_goes_on(tmp_path: Path) -> None:
    for session, rate in enumerate((0.5, 0.25)):
        config = Config.from_flags(learning_rate=rate)
        TensorBoardWriter(tmp_path, config.flags()).on_report({"frames": 100 * session, "return/mean": float(session)})
    log = EventAccumulator(str(tmp_path))
    log.Reload()
    content = log.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert HParamsPluginData.FromString(content).session_start_info.hparams["learning_rate"].number_value == 0.25
    (text,) = tf.make_ndarray(log.Tensors("config")[-1].tensor_proto).reshape(-1)
    assert json.loads(text.decode())["learning_rate"] == 0.25
    assert [event.step for event in log.Tensors("return/mean")] == [0, 100]  # the curves of both sessions


def test_tensorboard_serves_the_video_of_an_evaluation_as_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "best.gif", save_all=True, append_images=frames[1:], duration=100)
    write_evaluation(tmp_path / "evaluation", 5000, 12.5, tmp_path / "best.gif")
    write_evaluation(tmp_path / "evaluation", 6000, float("nan"), None)
    log = EventAccumulator(str(tmp_path / "evaluation"))
    log.Reload()
    assert log.SummaryMetadata("evaluation/video").plugin_data.plugin_name == "images"
    (event,) = log.Tensors("evaluation/video")
    width, height, data = tf.make_ndarray(event.tensor_proto)
    assert (event.step, width, height) == (5000, b"40", b"30")
    assert from_bytes(data) == "image/gif" and len(list(ImageSequence.Iterator(Image.open(io.BytesIO(data))))) == 3
    assert [event.step for event in log.Tensors("evaluation/mean")] == [5000]


def test_trackio_continues_the_run_of_a_logdir(tmp_path: Path) -> None:
    started: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, float], int]] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            logged.append((values, step))

        def finish(self) -> None:
            logged.append(({}, -1))

    def init(**given: Any) -> Run:
        started.append(given)
        return Run()

    trackio = SimpleNamespace(init=init)
    for _ in range(2):
        writer = TrackioWriter(trackio, tmp_path, {"seed": 1})
        writer.on_report({"frames": 100, "return/mean": 2, "lag/mean": float("nan")})
        writer.close(True)
    assert started[0]["name"] == started[1]["name"] and started[0]["resume"] == "allow"
    values = {"frames": 100.0} | dict.fromkeys(("return/mean", "rollout/ep_rew_mean", "charts/episodic_return"), 2.0)
    assert logged == 2 * [(values, 100), ({}, -1)]
    (tmp_path / "other").mkdir()
    TrackioWriter(trackio, tmp_path / "other", {})
    assert started[2]["name"] != started[0]["name"] and started[2]["project"] == "mlma"
