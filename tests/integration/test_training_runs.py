"""Complete runs with real processes: faults they survive, clean ends, and resuming."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from mlma.learning.checkpoint_file import load_checkpoint
from tests.support.runs import SMALL, Process, frames, gone, rows, wait_for, wait_for_progress


def niceness(pid: int) -> set[int]:
    """The niceness values of all threads of a process."""
    values = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended in the meantime
            values.add(os.getpriority(os.PRIO_PROCESS, int(thread.name)))
    return values


def test_ctrl_c_saves_and_leaves_no_process_and_the_run_resumes_where_it_stopped(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    with Process(tmp_path, "first", *SMALL, f"--logdir={logdir}", "--num_actors=2") as run:
        wait_for_progress(run, logdir)
        wait_for(lambda: len(run.children()) == 2, 60, run.text)
        children = run.children()
        assert niceness(run.process.pid) == {os.nice(0)}
        lower = {os.nice(0) + 10}  # on its learner's host; an actor has it from about half a second after its start
        wait_for(lambda: all(niceness(child) == lower for child in children), 30, lambda: str(children))
        run.signal(signal.SIGINT)
        assert run.wait() == 0
        assert gone(children)
    saved = sorted((logdir / "checkpoints").glob("checkpoint-*.npz"))
    _, meta = load_checkpoint(saved[-1])
    assert meta["frames"] >= frames(logdir) > 0
    total = meta["frames"] + 2000
    config = f"--config={logdir}/config.json"
    with Process(tmp_path, "second", config, f"--total_environment_frames={total}") as run:
        assert run.wait(120) == 0, run.text()
        assert f"resumed {saved[-1]} at {meta['frames']:,} frames" in run.text()
        assert gone(run.children())
    table = rows(logdir)
    assert all(later["frames"] >= earlier["frames"] for earlier, later in itertools.pairwise(table))
    _, after = load_checkpoint(sorted((logdir / "checkpoints").glob("checkpoint-*.npz"))[-1])
    assert after["frames"] >= total
    assert after["seconds"] > meta["seconds"]
    assert after["seeds"][1] > meta["seeds"][1], "a resumed run must not repeat the episodes of the first"


def test_a_killed_actor_comes_back_and_a_killed_learner_leaves_no_orphan(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    flags = [*SMALL, f"--logdir={logdir}", "--num_actors=2", "--checkpoint_every_seconds=1"]
    with Process(tmp_path, "learner", *flags) as run:
        wait_for_progress(run, logdir)
        wait_for(lambda: len(run.children()) == 2, 60, run.text)
        victim = run.children()[0]
        os.kill(victim, signal.SIGKILL)
        run.expect("ended with code -9; restarting it")
        wait_for_progress(run, logdir)
        wait_for(lambda: len(run.children()) == 2 and victim not in run.children(), 60, run.text)
        wait_for(lambda: rows(logdir)[-1].get("faults/actors_restarted") == 1, 30, run.text)
        wait_for(lambda: any((logdir / "checkpoints").glob("checkpoint-*.npz")), 60, run.text)
        children = run.children()
        run.signal(signal.SIGKILL)
        run.wait()
        wait_for(lambda: gone(children), 10, lambda: f"orphans: {children}")
    with Process(tmp_path, "again", *flags) as run:
        run.expect("resumed")
        wait_for_progress(run, logdir)


def test_an_actor_starts_beside_its_learner_and_ends_with_it_before_it_serves(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    with Process(tmp_path, "learner", *SMALL, f"--logdir={logdir}", "--num_actors=1") as run:
        wait_for(lambda: len(run.children()) == 1, 60, run.text)
        children = run.children()
        assert "learner at" not in run.text()
        run.signal(signal.SIGKILL)
        run.wait()
        wait_for(lambda: gone(children), 10, lambda: f"orphans: {children}")
    assert not list(logdir.glob("checkpoints/*"))


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    with Process(tmp_path, "run", *SMALL, f"--logdir={tmp_path}/run", "--num_actors=1") as run:
        wait_for_progress(run, tmp_path / "run")
        children = run.children()
        run.signal(signal.SIGSTOP)  # so that both signals are pending when it continues
        run.signal(signal.SIGINT)
        run.signal(signal.SIGTERM)
        run.signal(signal.SIGCONT)
        assert run.wait(20) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        wait_for(lambda: gone(children), 10, lambda: f"orphans: {children}")


@pytest.mark.parametrize("inference", ["actor", pytest.param("learner", marks=pytest.mark.slow)])
def test_actors_may_start_before_the_learner_and_late_and_outlive_it(tmp_path: Path, inference: str) -> None:
    logdir, both = tmp_path / "run", [*SMALL, f"--learner_host=unix:{tmp_path}/socket", f"--inference={inference}"]
    acting = [*both, "--job_name=actor"]
    learning = [*both, "--job_name=learner", "--task=0", f"--logdir={logdir}", "--checkpoint_every_seconds=1"]
    with Process(tmp_path, "early", *acting, "--task=0") as early:
        with Process(tmp_path, "learner", *learning) as learner:
            early.expect("connected")
            wait_for_progress(learner, logdir)
            saved = logdir / "checkpoints"
            wait_for(lambda: any(saved.glob("checkpoint-*.npz")), 60, learner.text)
            before = frames(logdir)
            with Process(tmp_path, "late", *acting, "--task=1") as late:
                late.expect("connected")
                wait_for_progress(learner, logdir)
            assert frames(logdir) >= before, "a late actor must not set the learner back"
            learner.signal(signal.SIGKILL)
            learner.wait()
        early.expect("lost the learner")
        assert early.process.poll() is None
        with Process(tmp_path, "learner", *learning) as learner:
            wait_for(lambda: early.text().count("connected") == 2, 60, early.text)
            wait_for_progress(learner, logdir)
            learner.signal(signal.SIGTERM)
            assert learner.wait() == 0
        wait_for(lambda: early.text().count("lost the learner") == 2, 30, early.text)
        time.sleep(2)
        assert early.process.poll() is None, "a learner that was stopped may be started again"
        assert "training is over" not in early.text()


@pytest.mark.parametrize("inference", ["actor", "learner"])
def test_actors_that_wait_for_room_when_training_ends_are_notified(tmp_path: Path, inference: str) -> None:
    both = [*SMALL, f"--learner_host=unix:{tmp_path}/socket", f"--inference={inference}"]
    total = 10_000
    learning = [*both, "--job_name=learner", "--task=0", f"--logdir={tmp_path}/run", "--sample_reuse=200"]
    learning.append(f"--total_environment_frames={total}")
    with Process(tmp_path, "learner", *learning) as learner:
        acting = [Process(tmp_path, f"actor-{i}", *both, "--job_name=actor", f"--task={i}") for i in range(2)]
        with acting[0], acting[1]:
            wait_for_progress(learner, tmp_path / "run")
            wait_for(lambda: rows(tmp_path / "run")[-1]["actors/wait"] > 0.5, 60, learner.text)
            wait_for(lambda: rows(tmp_path / "run")[-1]["frames"] >= total, 120, learner.text)
            assert learner.wait(9) == 0, "it waits the full ten seconds only for actors that were not notified"
            assert [actor.wait(20) for actor in acting] == [0, 0], acting[0].text()
            for actor in acting:
                assert "training is over" in actor.text()
                assert actor.text().count("connected") == 1, "it does not reconnect to a learner that has finished"


def test_ten_thousand_malformed_messages_leave_the_learner_training(tmp_path: Path) -> None:
    from mlma.transport.auth import token_digest
    from mlma.transport.client import Client
    from mlma.transport.messages import pack
    from mlma.transport.protocol import REFUSED, VERSION_UNAVAILABLE, HandshakeRefusedError

    logdir, address = tmp_path / "run", f"unix:{tmp_path}/socket"
    flags = [*SMALL, f"--learner_host={address}", f"--logdir={logdir}"]
    with Process(tmp_path, "learner", *flags, "--num_actors=1", env={"MLMA_TOKEN": "secret"}) as run:
        wait_for_progress(run, logdir)
        rng = np.random.default_rng(0)
        valid = pack({"task": 7, "part": 0, "parts": 1}, rng.bytes(1000))
        admitted = Client(address, "secret", 20)
        for kind in range(5_000):
            message = bytearray(valid) if kind % 2 else bytearray(rng.bytes(int(rng.integers(0, 3000))))
            if kind % 4 == 1:
                message[int(rng.integers(len(message)))] ^= 1 + int(rng.integers(255))
            admitted.put(bytes(message))
        stranger = Client(address, "guess", 20)
        for _ in range(4_998):
            answer = stranger._call("put", token_digest("guess"), valid)
            assert int(answer) == REFUSED
        with pytest.raises(HandshakeRefusedError, match="token"):
            stranger.handshake({})
        with pytest.raises(HandshakeRefusedError):
            admitted.handshake({"level_name": "another"})
        assert int(stranger._call("fetch", token_digest("guess"), np.int64(-1), np.int64(0))[0]) == VERSION_UNAVAILABLE
        wait_for_progress(run, logdir)
        refused = rows(logdir)[-1]["faults/messages_refused"]
        assert refused >= 4_990  # those still in the queue are counted later
        run.signal(signal.SIGINT)
        assert run.wait() == 0


def test_an_actor_of_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    host = f"--learner_host=unix:{tmp_path}/socket"
    with Process(tmp_path, "learner", *SMALL, host, "--task=0", f"--logdir={tmp_path}/run") as learner:
        learner.expect("learner at")
        with Process(tmp_path, "actor", *SMALL, host, "--job_name=actor", "--task=4", "--unroll_length=11") as actor:
            assert actor.wait() == 1
            assert "unroll_length: actor has 11, learner 10" in actor.text()
        learner.expect("refused actor 4: unroll_length: actor has 11, learner 10")


def test_test_mode_runs_episodes_with_a_checkpoint(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    with Process(
        tmp_path, "train", *SMALL, f"--logdir={logdir}", "--num_actors=1", "--total_environment_frames=2000"
    ) as run:
        assert run.wait(120) == 0, run.text()
    greedy = ["--test_num_episodes=5", "--test_actions=greedy"]
    with Process(tmp_path, "test", "--mode=test", f"--config={logdir}/config.json", *greedy) as run:
        assert run.wait(120) == 0, run.text()
        assert run.text().count("episode ") == 5
    (record,) = (json.loads(path.read_text()) for path in (logdir / "evaluation").glob("*.json"))
    assert f"mean {record['mean']:.2f} +- {record['standard_error']:.2f}" in run.text()
    assert (record["level"], record["episodes"], record["actions"]) == ("catch", 5, "greedy")
    assert record["frames"] >= 2000
    assert record["versions"]["dm-sonnet"]
    assert record["config"]["unroll_length"] == 10
    (table,) = (path.read_text().splitlines() for path in (logdir / "evaluation").glob("*.csv"))
    assert np.mean([float(line.split(",")[1]) for line in table[1:]]) == pytest.approx(record["mean"])
    with Process(tmp_path, "other", f"--config={logdir}/config.json", "--level_name=corridor") as run:
        assert run.wait(120) == 2
        assert "was made with level_name=catch, this run has level_name=corridor" in run.text()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--levle_name=x", "--levle_name: no such flag; did you mean --level_name"),
        ("--batch_size=many", "--batch_size=many: must be an integer"),
        ("--agent_name=ShalowConvNetAgent", "did you mean ShallowConvNetAgent"),
        ("--level_name=PongNoFrameskp-v4", "PongNoFrameskip-v4"),
        ("--config=/nowhere.json", "--config=/nowhere.json: No such file or directory"),
        ("--learner_host=0.0.0.0:8001", "needs a shared token"),
        ("--logdir=/dev/null/run", "--logdir=/dev/null/run: cannot be written to: Not a directory"),
        ("--logdir=/proc/run", "--logdir=/proc/run: cannot be written to: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, flag: str, message: str) -> None:
    with Process(tmp_path, "run", f"--logdir={tmp_path}/run", flag) as run:
        assert run.wait(60) == 2
    lines = run.text().splitlines()
    assert len(lines) == 1, run.text()
    assert message in lines[0]
