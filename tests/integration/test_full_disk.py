"""A full disk costs the records of that time and nothing else: training goes on, and what was written stays readable.

MLMA_FULL_SECONDS=60 fills each disk for a minute instead of some seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlma.learning.checkpoint_file import load_checkpoint
from tests.support.full_disk import keep_full, small_disk
from tests.support.runs import ROOT, SMALL, Process, frames, rows, wait_for, wait_for_progress

SECONDS = float(os.environ.get("MLMA_FULL_SECONDS", 6))
REPLAY = ["--replay_capacity=20000", "--replay_min_fill=500", "--checkpoint_replay"]
ALGORITHMS = {
    "impala": ["--video_every_episodes=300"],
    "apex": ["--algorithm=apex", *REPLAY],
    "r2d2": ["--algorithm=r2d2", *REPLAY, "--sequence_length=10", "--burn_in=0"],
}
pytestmark = pytest.mark.timeout(300 + 4 * SECONDS)


def console_frames(run: Process) -> int:
    """The frames in the last report on the console."""
    return int(re.findall(r"([\d,]+) frames \(", run.text())[-1].replace(",", ""))


def event_values(logdir: Path) -> dict[float, float]:
    """Frames -> learner step, from all event files; each of them must be whole to the last record."""
    for path in logdir.glob("events.out.tfevents.*"):
        assert sum(1 for _ in tf.data.TFRecordDataset(str(path))) > 0
    log = EventAccumulator(str(logdir), size_guidance={"tensors": 0})
    log.Reload()
    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in log.Tensors("learner_step")}


@pytest.mark.parametrize(
    "algorithm", ["impala", pytest.param("apex", marks=pytest.mark.slow), pytest.param("r2d2", marks=pytest.mark.slow)]
)
def test_training_survives_full_disks(tmp_path: Path, algorithm: str) -> None:
    with (
        small_disk(tmp_path / "data", 24) as data,
        small_disk(tmp_path / "tmp", 4) as temporary,
        small_disk(tmp_path / "log", 4) as log,
    ):
        logdir = data / "run"
        flags = [*SMALL, *ALGORITHMS[algorithm], "--num_actors=1", "--checkpoint_every_seconds=1"]
        flags += ["--total_environment_frames=1e9"]  # until it is stopped
        with Process(log, "run", *flags, f"--logdir={logdir}", env={"TMPDIR": str(temporary)}) as run:
            run.expect("saved ")
            wait_for(lambda: frames(logdir) > 2000, 120, run.text, run)
            before = console_frames(run)
            keep_full(data, SECONDS)
            during = console_frames(run)
            print(f"logdir full for {SECONDS:g} s: {before:,} to {during:,} frames")
            assert during > before
            wait_for(lambda: frames(logdir) > during, 60, run.text, run)
            for name in ("metrics.csv", "TensorBoard", "workers.json"):
                assert run.text().count(f"{name} failed: ") == 1, run.text()
                run.expect(f"{name} works again")
            assert "could not save a checkpoint: No space left on device; training continues" in run.text()
            for disk in (temporary, log):
                earlier = int(frames(logdir))
                keep_full(disk, SECONDS)
                print(f"{disk.name} full for {SECONDS:g} s: {earlier:,} to {frames(logdir):,.0f} frames")
                assert frames(logdir) > earlier
            wait_for_progress(run, logdir)
            run.expect("standard output works again")
            run.signal(signal.SIGTERM)
            assert run.wait() == 0, run.text()
            assert "Traceback" not in run.text()
        table = rows(logdir)
        steps = [row["frames"] for row in table]
        assert steps == sorted(steps)
        assert sum(before < step < during for step in steps) > 1, "rows that had to wait for room"
        last = sorted((logdir / "checkpoints").glob("checkpoint-*.npz"))[-1]
        assert load_checkpoint(last)[1]["frames"] == steps[-1]
        assert not list(logdir.rglob(".*.[0-9]*"))
        assert {steps[0], steps[-1]} <= event_values(logdir).keys()
        assert "standard output failed: No space left on device" in (logdir / "events.log").read_text()


@contextlib.contextmanager
def lost_pipe() -> Iterator[tuple[int, Callable[[], None]]]:
    """A pipe as standard output, and what makes its reader go away."""
    reader, writer = os.pipe()
    yield writer, lambda: os.close(reader)
    os.close(writer)


@contextlib.contextmanager
def lost_terminal() -> Iterator[tuple[int, Callable[[], None]]]:
    """A terminal as standard output, and what closes it."""
    controller, terminal = os.openpty()
    yield terminal, lambda: os.close(controller)
    os.close(terminal)


@contextlib.contextmanager
def device_full() -> Iterator[tuple[int, Callable[[], None]]]:
    """/dev/full as standard output."""
    with open("/dev/full", "wb") as full:
        yield full.fileno(), lambda: None


@contextlib.contextmanager
def closed() -> Iterator[tuple[int, Callable[[], None]]]:
    """Standard output closed by the shell that starts the run."""
    yield subprocess.DEVNULL, lambda: None


@pytest.mark.parametrize("console", [lost_pipe, lost_terminal, device_full, closed])
def test_training_survives_a_console_that_takes_no_lines(
    tmp_path: Path, console: Callable[[], contextlib.AbstractContextManager[tuple[int, Callable[[], None]]]]
) -> None:
    flags = [*SMALL, "--num_actors=1", "--total_environment_frames=2e4", f"--logdir={tmp_path}/run"]
    command = [sys.executable, "experiment.py", *flags]
    if console is closed:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    with console() as (output, lose):
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, start_new_session=True
        ) as run:
            wait_for(lambda: rows(tmp_path / "run") or run.poll() is not None, 120, lambda: "no report")
            lose()
            errors = run.communicate(timeout=120)[1].decode()
        assert run.returncode == 0, errors
    reason = "is closed" if console is closed else "failed: "
    assert errors.count(f"standard output {reason}") == errors.count("\n") == 1, errors
    assert rows(tmp_path / "run")[-1]["frames"] >= 2e4
    if console is not closed:
        assert (tmp_path / "run/events.log").read_text().count("standard output failed: ") == 1
