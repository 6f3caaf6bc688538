"""TensorBoard: the curves of a run, its hyperparameters and configuration, and the videos of evaluations."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from mlma.monitoring.episode_statistics import Row
from mlma.monitoring.metric_catalog import finite_with_aliases
from mlma.utils.atomic_file import atomic_write

EVENT_FILES = "events.out.tfevents.*"
# Of the hyperparameters: it sorts before all others, whose names go on with the time. TensorBoard reads the files of a
# folder in that order, and shows the first hyperparameters that it finds.
FLAGS_FILE = "events.out.tfevents.0.flags"
# Flags that say where a run is, and are no hyperparameters.
PLACES = ("logdir", "heartbeat_folder", "learner_host", "actor_hosts", "token_file", "metrics_port")


class TensorBoardWriter:
    """Each finite value of a row as a scalar over frames, and the hyperparameters in a file of their own.

    A resumed run replaces that file, so that TensorBoard shows the flags with which the run goes on. After a failure,
    such as a full disk, it cuts off what it had written of that report, and starts a new event file.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path, config: dict[str, Any] | None = None) -> None:
        """`config` are the resolved flags of the run, if there is one."""
        import tensorflow as tf

        self._tf, self._folder, self._config = tf, folder, config or {}
        self._writer: Any = None
        self._path: Path | None = None
        self._size = 0  # of the event file after the last report

    def on_report(self, row: Row) -> None:
        """Writes and flushes."""
        try:
            if self._writer is None:
                self._open()
            with self._writer.as_default(step=int(row["frames"])):
                for name, value in finite_with_aliases(row).items():
                    if name != "frames":
                        self._tf.summary.scalar(name, value)
            self._writer.flush()
            self._size = self._path.stat().st_size if self._path else 0
        except BaseException:
            self._give_up_file()
            raise

    def _open(self) -> None:
        self._size, before = 0, set(self._folder.glob(EVENT_FILES))
        try:
            self._writer = self._tf.summary.create_file_writer(str(self._folder))
            self._writer.flush()
        finally:
            self._path = next(iter(set(self._folder.glob(EVENT_FILES)) - before), None)
        if self._config:
            _write_config(self._folder / FLAGS_FILE, self._config)

    def _give_up_file(self) -> None:
        """Ends the event file after the last whole report; TensorFlow would go on after a part of a record."""
        with contextlib.suppress(Exception):
            self._writer.close()
        self._writer = None  # its buffer is written or dropped now
        path, self._path = self._path, None
        if path:
            with contextlib.suppress(OSError):
                if self._size:
                    os.truncate(path, min(self._size, path.stat().st_size))
                else:
                    path.unlink()

    def close(self, finished: bool) -> None:
        """Nothing to do: each report is flushed."""


def _write_config(path: Path, config: dict[str, Any]) -> None:
    """An event file with the flags: for the tab HParams, and as a text."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams import summary_v2 as hparams  # its module `api` would import Keras as well
    from tensorboard.plugins.text import summary_v2 as texts
    from tensorboard.summary.writer.record_writer import RecordWriter

    known = {name: value for name, value in config.items() if isinstance(value, bool | int | float | str)}
    lines = json.dumps(config, indent=1).splitlines()
    summaries = (
        hparams.hparams_pb({name: value for name, value in known.items() if name not in PLACES}),
        texts.text_pb("config", "\n".join(f"    {line}" for line in lines)),  # indented: Markdown's for code
    )
    now = time.time()
    events = [Event(wall_time=now, file_version="brain.Event:2")]
    events += [Event(wall_time=now, summary=summary) for summary in summaries]
    with atomic_write(path) as file:
        records = RecordWriter(file)
        for event in events:
            records.write(event.SerializeToString())


def write_evaluation(folder: Path, frames: int, mean: float, video: Path | None) -> None:
    """An event file in `folder` with the mean return of one evaluation and, as an animated image, a GIF of it.

    A folder of its own, apart from training's: TensorBoard follows only the newest event file of a folder.
    """
    import tensorflow as tf
    from PIL import Image

    writer: Any = tf.summary.create_file_writer(str(folder))
    with contextlib.closing(writer), writer.as_default(step=frames):
        if math.isfinite(mean):
            tf.summary.scalar("evaluation/mean", mean)
        if video:
            from tensorboard.plugins.image import metadata

            with Image.open(video) as image:
                width, height = image.size
            about = metadata.create_summary_metadata(None, None, converted_to_tensor=False)
            tf.summary.write("evaluation/video", [str(width), str(height), video.read_bytes()], metadata=about)
