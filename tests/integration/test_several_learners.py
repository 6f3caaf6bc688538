"""Several learners under a real mpirun: the mathematics, and what is reported when something breaks."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlma.distributed.mpi_launcher import find_mpirun, mpi_environment
from mlma.learning.checkpoint_file import load_checkpoint
from tests.support.one_batch import CASES
from tests.support.runs import ROOT, SMALL, Process, descendants, gone, parents, rows, wait_for, wait_for_progress

pytestmark = [
    pytest.mark.skipif(not (Path(sys.executable).parent / "mpirun").exists(), reason="no mpirun: make install"),
    pytest.mark.timeout(900),
]


SLOW_CASES = ("deep-rmsprop", "deep-adam")  # each takes as long as all the others together


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(case, number of learners) -> the final values of each rank. What trains together is trained when first asked."""
    folder = tmp_path_factory.mktemp("one_batch")

    @functools.cache
    def train(names: tuple[str, ...], size: int) -> None:
        command = [find_mpirun(), "-np", str(size), "--oversubscribe", "--bind-to", "none"]
        command += [sys.executable, "-m", "tests.support.one_batch", str(folder), *names]
        run = subprocess.run(command, cwd=ROOT, env=mpi_environment(), capture_output=True, timeout=600)
        assert run.returncode == 0, run.stderr.decode()

    def values(case: str, size: int) -> list[dict[str, Any]]:
        train((case,) if case in SLOW_CASES else tuple(name for name in CASES if name not in SLOW_CASES), size)
        return [dict(np.load(folder / f"{case}-{size}-{rank}.npz")) for rank in range(size)]

    return values


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow) if case in SLOW_CASES else case
        for case in CASES
        if case not in ("idle", "bad", "fp16")
    ],
)
def test_the_same_data_gives_the_same_weights_with_any_number_of_learners(results: Any, case: str, size: int) -> None:
    (single,) = results(case, 1)
    assert single["step"] == CASES[case].steps
    assert single["moved"] > 1e-4
    first, *others = results(case, size)
    for values in (first, *others):
        assert values.keys() == single.keys()
        for name in values.keys() - {"moved"}:
            np.testing.assert_array_equal(values[name], first[name], err_msg=f"{name} differs between ranks")
            np.testing.assert_allclose(values[name], single[name], atol=1e-6, rtol=0, err_msg=name)


def test_fp16_compression_changes_the_weights_little_and_equally_on_all_ranks(results: Any) -> None:
    (single,), (one, two) = results("fp16", 1), results("fp16", 2)
    assert one["moved"] > 1e-4
    for name in one.keys() - {"moved"}:
        np.testing.assert_array_equal(one[name], two[name], err_msg=f"{name} on two ranks")
        np.testing.assert_allclose(one[name], single[name], atol=0.05 * single["moved"], rtol=0, err_msg=name)


def test_a_learner_without_data_has_weight_zero_and_stays_in_step(results: Any) -> None:
    one, two = results("idle", 2)
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
    assert one["step"] == 5
    assert one["frames"] == results("idle", 1)[0]["frames"] * 8 // 10  # two of ten shares were missing


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_all_learners_drop_the_step_at_which_one_has_a_bad_sample(results: Any, size: int) -> None:
    (single,) = results("bad", 1)
    first, *others = results("bad", size)
    for values in (first, *others):
        for name, value in values.items():
            np.testing.assert_array_equal(value, first[name], err_msg=f"{name} differs between ranks")
            assert np.isfinite(value).all(), name
    assert (first["step"], single["step"]) == (4, 5), "a single learner has no rank 1"
    assert first["frames"] == single["frames"], "frames count whether or not they are learned from"


def learners(logdir: Path, *flags: str) -> list[str]:
    """Flags of a small run with two learners of one actor each."""
    base = ["--num_learners=2", "--num_actors=1", f"--logdir={logdir}", "--checkpoint_every_seconds=1"]
    return [*SMALL, *base, "--total_environment_frames=1e9", *flags]


def ranks(run: Process) -> dict[int, int]:
    """Rank -> process id of the learners below mpirun."""
    pids = {}
    for pid in descendants(run.process.pid):
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = dict(
                word.split("=", 1) for word in file.read().decode(errors="replace").split("\0") if "=" in word
            )
        if "OMPI_COMM_WORLD_RANK" in environment and "MLMA_PARENT" not in environment:
            pids[int(environment["OMPI_COMM_WORLD_RANK"])] = pid
    return pids


@pytest.fixture
def two_learners(tmp_path: Path) -> Any:
    """Starts a run that makes progress; none of its processes is left afterwards."""
    started: list[Process] = []

    def start(*flags: str, name: str = "run") -> Process:
        run = Process(tmp_path, name, *learners(tmp_path / "run", *flags))
        started.append(run)
        wait_for_progress(run, tmp_path / "run")
        return run

    yield start
    for run in started:
        left = descendants(run.process.pid)
        run.__exit__()
        for pid in left:
            if pid in parents():
                os.kill(pid, signal.SIGKILL)


def test_all_learners_end_with_the_line_of_the_one_that_loads(tmp_path: Path) -> None:
    saved = tmp_path / "run/checkpoints/checkpoint-000000007.npz"
    saved.parent.mkdir(parents=True)
    saved.write_bytes(b"PK damaged")
    with Process(tmp_path, "run", *SMALL, "--num_learners=2", "--num_actors=1", f"--logdir={tmp_path}/run") as run:
        assert run.wait(200) == 2, run.text()
        assert run.text().count(" can be read (1 damaged), the newest: ") == 2, run.text()
        assert "Traceback" not in run.text()
    assert saved.read_bytes() == b"PK damaged"


def test_two_learners_train_one_network_and_a_term_signal_saves_it(tmp_path: Path, two_learners: Any) -> None:
    run = two_learners()
    listening = {line.split()[3] for line in subprocess.getoutput("ss -Hltnp").splitlines() if '"python"' in line
                 and any(f"pid={pid}," in line for pid in descendants(run.process.pid))}  # fmt: skip
    assert all(at.startswith("127.0.0.1:") for at in listening), f"learners of one host are on loopback: {listening}"
    logdir = tmp_path / "run"
    everything = descendants(run.process.pid)
    assert sorted(ranks(run)) == [0, 1]
    wait_for(lambda: rows(logdir)[-1]["learner_step"] > 1000, 200, run.text)
    assert rows(logdir)[-1]["episodes"] > 100
    run.signal(signal.SIGTERM)
    assert run.wait(60) == 0, run.text()
    one, two = re.findall(
        r"learner \d: ended after ([\d,]+) learner steps and [\d,]+ frames; weights (\w+)", run.text()
    )
    assert one == two, "step and weights on both ranks"
    assert int(one[0].replace(",", "")) > 1000
    wait_for(lambda: gone(everything), 10, lambda: f"left: {set(everything) & set(parents())}")
    table = rows(logdir)
    last = sorted((logdir / "checkpoints").glob("checkpoint-*.npz"))[-1]
    _, meta = load_checkpoint(last)
    assert meta["frames"] >= table[-1]["frames"] > 0
    # In each step, each learner uses 8 trajectories of 10 steps of Catch, which has 1 frame per step.
    trained = [row for row in table if row["learner_step"] > 0]
    assert trained[-1]["frames"] <= trained[-1]["learner_step"] * 2 * 8 * 10


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stopped_learner_is_named_by_the_other_and_the_run_ends(two_learners: Any, victim: int) -> None:
    run = two_learners("--hang_timeout_seconds=6", "--sample_timeout_seconds=2")
    pids = ranks(run)
    os.kill(pids[victim], signal.SIGSTOP)
    run.expect(f"waits for learner {victim} (process {pids[victim]} on", 30)
    assert "which does not answer" in run.text()
    assert run.wait(30) not in (0, None)
    wait_for(lambda: gone(list(pids.values())), 15, lambda: f"left: {pids}")


def test_a_killed_learner_ends_the_run_and_a_restart_resumes_from_its_checkpoint(
    tmp_path: Path, two_learners: Any
) -> None:
    run = two_learners("--max_restarts=1")
    logdir = tmp_path / "run"
    wait_for(lambda: any((logdir / "checkpoints").glob("checkpoint-*.npz")), 60, run.text)
    os.kill(ranks(run)[1], signal.SIGKILL)
    run.expect("restarts left: 1", 30)
    run.expect("resumed", 60)
    wait_for_progress(run, logdir)
    everything = descendants(run.process.pid)
    os.kill(ranks(run)[0], signal.SIGKILL)
    assert run.wait(30) != 0
    assert "restarts left: 0" in run.text()
    wait_for(lambda: gone(everything), 15, lambda: f"left: {set(everything) & set(parents())}")


def test_a_killed_mpirun_leaves_neither_processes_nor_temporary_files(
    tmp_path: Path, two_learners: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    run = two_learners()
    assert [path.name[:9] for path in temporary.iterdir()] == ["mlma-run-"]
    everything = descendants(run.process.pid)
    (launcher,) = run.children()
    os.kill(launcher, signal.SIGKILL)
    assert run.wait(30) == 128 + signal.SIGKILL
    wait_for(lambda: gone(everything), 15, lambda: f"left: {set(everything) & set(parents())}")
    wait_for(lambda: not list(temporary.iterdir()), 15, lambda: f"left: {list(temporary.rglob('*'))}")


def test_a_late_learner_is_waited_for_with_a_warning(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    flags = [*SMALL, "--num_actors=1", f"--logdir={logdir}", "--total_environment_frames=20000"]
    command = [find_mpirun(), "--oversubscribe", "--bind-to", "none"]
    command += ["-np", "1", sys.executable, "experiment.py", *flags, ":"]
    command += ["-np", "1", "sh", "-c", 'sleep 15; exec "$@"', "late", sys.executable, "experiment.py", *flags]
    with Process(tmp_path, "learners", command=command, env=mpi_environment()) as run:
        run.expect("learner 0: waits for the other learners to start, for 10 s", 60)
        assert run.wait(120) == 0, run.text()
    assert rows(logdir)[-1]["frames"] >= 20000


def test_a_failed_save_does_not_end_the_run(tmp_path: Path, two_learners: Any) -> None:
    run = two_learners()
    saved = tmp_path / "run" / "checkpoints"
    wait_for(lambda: any(saved.glob("checkpoint-*.npz")), 60, run.text)
    saved.rename(tmp_path / "moved")
    saved.write_text("a file in place of the folder: even root cannot write into it")
    run.expect("could not save a checkpoint", 30)
    wait_for_progress(run, tmp_path / "run")
    saved.unlink()
    wait_for(lambda: saved.is_dir() and any(saved.glob("checkpoint-*.npz")), 60, run.text)


def test_the_number_of_learners_must_match_the_flag(tmp_path: Path) -> None:
    command = [
        find_mpirun(),
        "-np",
        "2",
        "--oversubscribe",
        "--bind-to",
        "none",
        sys.executable,
        "experiment.py",
        *SMALL,
    ]
    with Process(tmp_path, "run", command=[*command, "--num_learners=3"], env=mpi_environment()) as run:
        assert run.wait(60) == 2
        assert "--num_learners=3: mpirun started 2" in run.text()


def test_learners_that_are_all_stopped_are_named_and_restarted(tmp_path: Path, two_learners: Any) -> None:
    run = two_learners("--hang_timeout_seconds=6", "--sample_timeout_seconds=2", "--max_restarts=1")
    stopped = ranks(run)
    for pid in stopped.values():
        os.kill(pid, signal.SIGSTOP)
    run.expect("all learners are stopped, for ", 60)
    assert f"learner-0 (process {stopped[0]}), learner-1 (process {stopped[1]}); ending the run" in run.text()
    run.expect("restarts left: 1 (--max_restarts)", 30)
    wait_for_progress(run, tmp_path / "run")
    assert set(ranks(run).values()).isdisjoint(stopped.values())
    wait_for(lambda: gone(list(stopped.values())), 10, run.text)
    run.signal(signal.SIGTERM)
    assert run.wait(60) == 0, run.text()
