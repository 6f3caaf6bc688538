"""A complete run with real-valued actions: trained, evaluated by the mean, and recorded; or refused before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlma.learning.checkpoint_file import load_checkpoint
from tests.support.runs import Process, rows

LEVEL = "--level_name=Pendulum-v1"
QUICK = [LEVEL, "--num_actors=1", "--envs_per_actor=4", "--batch_size=4", "--sample_reuse=2", "--learner_threads=1"]


def test_a_run_is_trained_and_evaluated_greedily_with_what_it_learned_of_the_observations(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    flags = [*QUICK, f"--logdir={logdir}", "--total_environment_frames=2500", "--env_processes=1"]
    with Process(tmp_path, "train", *flags, "--report_every_steps=5") as run:
        assert run.wait(120) == 0, run.text()
        assert "refused" not in run.text()
    last = rows(logdir)[-1]
    assert np.isfinite([last[name] for name in ("policy/spread", "policy/entropy", "loss/value")]).all()
    variables, _ = load_checkpoint(next((logdir / "checkpoints").glob("checkpoint-*.npz")))
    (count,) = (value for name, value in variables.items() if "count" in name and name.startswith("network/"))
    assert count >= 2500
    test = ["--mode=test", f"--config={logdir}/config.json", "--test_num_episodes=2", "--record_video"]
    with Process(tmp_path, "test", *test, "--test_actions=greedy") as run:
        assert run.wait(120) == 0, run.text()
        assert "episode 2: return -" in run.text()
        assert "no video" not in run.text()
    assert len(list(logdir.glob("videos/*/*.mp4"))) >= 2


def test_q_learning_is_refused_in_one_line_with_code_2(tmp_path: Path) -> None:
    with Process(tmp_path, "refused", LEVEL, "--algorithm=r2d2", f"--logdir={tmp_path}/run") as run:
        assert run.wait(60) == 2
        (line,) = run.text().strip().splitlines()
        assert line == "--algorithm=r2d2: Pendulum-v1 has actions of real numbers; allowed: impala"
    assert not (tmp_path / "run").exists()
