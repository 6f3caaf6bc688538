"""Runs of Ape-X and R2D2 with real processes: two learners under mpirun, faults, and how the replay is restored."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from mlma.learning.checkpoint_file import load_checkpoint
from tests.support.runs import Process, descendants, frames, parents, rows, wait_for, wait_for_progress

SMALL = [
    "--envs_per_actor=4", "--batch_size=16", "--unroll_length=5", "--replay_min_fill=200", "--replay_capacity=4000",
    "--report_every_seconds=0.5", "--target_period=10", "--total_environment_frames=1e9",
    "--checkpoint_every_seconds=2",
]  # fmt: skip
APEX = ["--algorithm=apex", "--level_name=catch", *SMALL]
R2D2 = ["--algorithm=r2d2", "--level_name=tmaze", "--burn_in=3", "--sequence_length=8", *SMALL]


def checkpoints(logdir: Path) -> list[Path]:
    return sorted((logdir / "checkpoints").glob("checkpoint-*.npz"))


@pytest.mark.skipif(not (Path(sys.executable).parent / "mpirun").exists(), reason="no mpirun: make install")
@pytest.mark.parametrize("flags", [pytest.param(APEX, marks=pytest.mark.slow), R2D2], ids=["apex", "r2d2"])
def test_two_learners_with_two_actors_each_fill_their_shards_and_stay_equal(tmp_path: Path, flags: list[str]) -> None:
    logdir = tmp_path / "run"
    all_flags = [*flags, "--num_learners=2", "--num_actors=2", f"--logdir={logdir}", "--checkpoint_replay"]
    with Process(tmp_path, "first", *all_flags) as run:
        wait_for_progress(run, logdir, 200)
        # Each report compares the checksums of the weights of all ranks.
        wait_for(lambda: rows(logdir)[-1]["learner_step"] > 40, 120, run.text)
        processes = descendants(run.process.pid)
        actors = [pid for pid in processes if b"job_name=actor" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(actors) == 4
        os.kill(actors[0], signal.SIGKILL)
        run.expect("ended with code -9; restarting it", 30)
        wait_for_progress(run, logdir, 200)
        wait_for(lambda: rows(logdir)[-1].get("faults/actors_restarted") == 1, 60, run.text)
        run.signal(signal.SIGTERM)
        assert run.wait(60) == 0, run.text()
        wait_for(lambda: not set(processes) & set(parents()), 15, lambda: f"left: {set(processes) & set(parents())}")
    assert "differ" not in run.text()
    for rank in range(2):
        snapshot = logdir / "checkpoints" / f"replay-{rank}.bin"
        assert re.search(rf"learner {rank}: saved {snapshot} with [1-9][\d,]* steps", run.text())
    before = frames(logdir)
    with Process(tmp_path, "second", *all_flags) as run:
        run.expect("resumed", 90)
        for rank in range(2):
            run.expect(f"learner {rank}: restored", 90)
        wait_for(lambda: frames(logdir) > before, 90, run.text, run)
        run.signal(signal.SIGTERM)
        assert run.wait(60) == 0, run.text()


@pytest.mark.parametrize("with_replay", [True, False], ids=["with", "without"])
def test_a_resumed_run_restores_its_replay_or_fills_it_again(tmp_path: Path, with_replay: bool) -> None:
    logdir = tmp_path / "run"
    flags = [*APEX, "--num_actors=1", f"--logdir={logdir}", *(["--checkpoint_replay"] if with_replay else [])]
    with Process(tmp_path, "first", *flags) as run:
        run.expect("learning begins at 200", 90)
        wait_for_progress(run, logdir, 200)
        wait_for(lambda: len(checkpoints(logdir)) > 0, 60, run.text)
        if with_replay:
            run.expect("replay-0.bin with", 60)
        before = frames(logdir)
        run.signal(signal.SIGKILL)  # what was saved during training is complete
        run.wait()
    variables, meta = load_checkpoint(checkpoints(logdir)[-1])
    num_target, num_network = (sum(name.startswith(owner) for name in variables) for owner in ("target/", "network/"))
    assert num_target == num_network, "the target network is part of a checkpoint"
    with Process(tmp_path, "second", *flags) as run:
        run.expect(f"resumed {checkpoints(logdir)[-1]}", 90)
        run.expect("restored" if with_replay else "learning begins at 200", 90)
        wait_for(lambda: frames(logdir) > min(before, meta["frames"]), 90, run.text, run)
        run.signal(signal.SIGINT)
        assert run.wait(60) == 0, run.text()
        assert ("restored" in run.text()) == with_replay


def test_the_ratio_is_kept_and_reported_and_evaluation_works(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    with Process(
        tmp_path,
        "train",
        *R2D2,
        f"--logdir={logdir}",
        "--num_actors=1",
        "--total_environment_frames=6000",
        "--replay_ratio=2",
    ) as run:
        assert run.wait(200) == 0, run.text()
    last = rows(logdir)[-1]
    assert last["replay/ratio"] == pytest.approx(2, rel=0.15)
    assert last["replay/bytes_per_step"] > 0
    assert last["replay/windows"] > 0
    with Process(tmp_path, "test", "--mode=test", f"--config={logdir}/config.json", "--test_num_episodes=3") as run:
        assert run.wait(120) == 0, run.text()
        assert run.text().count("episode ") == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--algorithm=apex", "--replay_capacity=1e12"], "--replay_capacity=1000000000000: must be at most"),
        (["--algorithm=apex", "--replay_capacity=1e10"], "--replay_capacity=10000000000: the replay would need"),
        (
            ["--algorithm=apex", "--replay_capacity=100", "--replay_min_fill=200"],
            "--replay_min_fill=200: must be at most",
        ),
        (["--algorithm=r2d2", "--unroll_length=50"], "--unroll_length=50: exceeds --sequence_length"),
        (["--algorithm=apex", "--agent_name=MLPLSTMAgent"], "has an LSTM"),
    ],
)
def test_a_replay_that_cannot_work_is_one_line_and_exit_code_2(tmp_path: Path, flags: list[str], message: str) -> None:
    with Process(tmp_path, "run", *flags, "--level_name=catch", f"--logdir={tmp_path}/run") as run:
        assert run.wait(90) == 2
    assert message in run.text()
    assert len(run.text().splitlines()) == 1
