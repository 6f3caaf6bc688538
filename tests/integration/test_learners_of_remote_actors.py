"""Two learners under a real mpirun, each with an actor that somebody else started."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from mlma.distributed.mpi_launcher import find_mpirun, mpi_environment
from mlma.learning.checkpoint_file import load_checkpoint
from tests.support.runs import SMALL, Process, wait_for, wait_for_progress

pytestmark = [
    pytest.mark.skipif(not (Path(sys.executable).parent / "mpirun").exists(), reason="no mpirun: make install"),
    pytest.mark.timeout(300),
]


def learners(tmp_path: Path, *flags: str) -> Process:
    """Two learners with --logdir=tmp_path/run; that of rank R listens at the socket tmp_path/R."""
    flags = (*SMALL, "--job_name=learner", "--task=0", f"--logdir={tmp_path}/run", *flags)
    command = [find_mpirun(), "--oversubscribe", "--bind-to", "none"]
    for rank in range(2):
        command += [":"] if rank else []
        command += ["-np", "1", sys.executable, "experiment.py", *flags, f"--learner_host=unix:{tmp_path}/{rank}"]
    return Process(tmp_path, "learners", command=command, env=mpi_environment())


def actor(tmp_path: Path, name: str, rank: int) -> Process:
    """An actor of the learner `rank`."""
    return Process(tmp_path, name, *SMALL, "--job_name=actor", "--task=0", f"--learner_host=unix:{tmp_path}/{rank}")


def test_a_learner_that_loses_its_actors_names_them_and_the_other_continues(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    with (
        learners(tmp_path, "--sample_timeout_seconds=2", "--actor_hosts=localhost:9001") as run,
        actor(tmp_path, "first", 0),
        actor(tmp_path, "second", 1) as second,
    ):
        wait_for_progress(run, logdir)
        second.signal(signal.SIGKILL)
        second.wait()
        run.expect("learner 1: no sample for 2 s, takes part with weight zero until it has one; 0 of 1 actors send", 30)
        run.expect("actor 0 silent for", 30)
        wait_for_progress(run, logdir)
        with actor(tmp_path, "again", 1):
            run.expect("learner 1: has samples again", 60)
            wait_for_progress(run, logdir)
            run.signal(signal.SIGTERM)  # to mpirun itself, which gives its children half a second
            run.wait(60)
    saved = sorted((logdir / "checkpoints").glob("checkpoint-*.npz"))
    assert saved, run.text()
    assert load_checkpoint(saved[-1])[1]["frames"] > 0


def test_no_actor_ends_if_the_last_checkpoint_could_not_be_saved(tmp_path: Path) -> None:
    """Only the first learner saves; the actors of the other are needed too when the run comes back."""
    folder, moved = tmp_path / "run" / "checkpoints", tmp_path / "moved"
    flags = ("--actor_hosts=localhost:9001", "--total_environment_frames=40000", "--checkpoint_every_seconds=1")
    with (
        learners(tmp_path, *flags) as run,
        actor(tmp_path, "first", 0) as first,
        actor(tmp_path, "second", 1) as second,
    ):
        wait_for(lambda: any(folder.glob("checkpoint-*.npz")), 60, run.text)
        folder.rename(moved)
        folder.write_text("a file in place of the folder: even root cannot write into it")
        assert run.wait(120) != 0, run.text()
        run.expect("could not save a checkpoint", 1)
        for waiting in (first, second):
            waiting.expect("lost the learner", 30)
            assert "training is over" not in waiting.text()
        folder.unlink()
        moved.rename(folder)
        with learners(tmp_path, *flags) as again:
            assert again.wait(120) == 0, again.text()
            for waiting in (first, second):
                waiting.expect("training is over", 30)
