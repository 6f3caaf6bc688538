"""The Python API in a real Jupyter kernel: it trains, shows progress, stops, saves, acts; and ends with its kernel."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

import mlma
from tests.support.runs import ROOT, descendants, gone, wait_for

FLAGS = "level_name='catch', num_actors=1, envs_per_actor=8, batch_size=8, unroll_length=10, report_every_seconds=0.3"


class Notebook:
    """A kernel, and what it displays."""

    def __init__(self) -> None:
        self.manager = KernelManager(kernel_name="python3", transport="ipc")
        self.manager.start_kernel(cwd=str(ROOT))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        self.displayed: list[str] = []

    def run(self, code: str, seconds: float = 120) -> str:
        """What a cell prints; AssertionError with its traceback if it fails."""
        printed: list[str] = []

        def show(message: Any) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            elif message["msg_type"] in ("display_data", "update_display_data"):
                self.displayed.append(content["data"]["text/plain"])
            elif message["msg_type"] == "error":
                printed.append("\n".join(content["traceback"]))

        reply = self.client.execute_interactive(code, timeout=seconds, output_hook=show)
        assert reply["content"]["status"] == "ok", "".join(printed)
        return "".join(printed)

    @property
    def pid(self) -> int:
        """The kernel's process."""
        return int(self.manager.provisioner.pid)


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    made = Notebook()
    yield made
    made.client.stop_channels()
    made.manager.shutdown_kernel(now=True)


PROGRESS = "while not (run.metrics()['frames'] > 0).any():\n    assert run.running, run.output\n    run.wait(0.1)"


def test_a_notebook_trains_stops_and_acts(notebook: Notebook, tmp_path: Path) -> None:
    notebook.run("import sys, mlma\nassert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules")
    notebook.run(f"run = mlma.train({FLAGS}, logdir={str(tmp_path)!r})")
    notebook.run(PROGRESS)
    assert "tensorflow" not in notebook.run("print(*sys.modules)")
    notebook.run("run.stop()")
    assert notebook.run("print(run)").strip() == f"<mlma.TrainingRun in {tmp_path}: ended>"
    assert notebook.run("print(run.wait(), run.running)").split() == ["True", "False"]
    assert "ended after" in notebook.run("print(*run.output, sep=chr(10))")
    assert any("frames/s" in text for text in notebook.displayed), "no progress was displayed"
    assert not any("\x1b" in text for text in notebook.displayed), "control codes of terminals"
    frames = float(notebook.run("print(run.metrics()['frames'][-1])"))
    assert frames > 0 and mlma.read_run(tmp_path).metrics["frames"][-1] == frames

    # TensorFlow is in use, with thread settings that can no longer be changed.
    notebook.run("import tensorflow as tf\ntf.config.threading.set_intra_op_parallelism_threads(1)\ntf.zeros(1) + 1")
    notebook.run("policy = run.policy(actions='greedy')\nimport numpy as np")
    printed = notebook.run("print(policy(np.zeros(50, np.float32)) in range(3), policy.frames > 0)")
    assert printed.split() == ["True", "True"]
    assert notebook.run("print(tf.config.threading.get_intra_op_parallelism_threads())").strip() == "1"


def test_the_end_of_the_kernel_saves_and_stops(notebook: Notebook, tmp_path: Path) -> None:
    notebook.run(f"import mlma\nrun = mlma.train({FLAGS}, logdir={str(tmp_path)!r}, progress=False)")
    notebook.run(PROGRESS)
    children = descendants(notebook.pid)
    assert len(children) >= 3, "the keeper, the learner and an actor"
    os.kill(notebook.pid, signal.SIGKILL)
    wait_for(lambda: gone(children), 60, lambda: f"of {children}, some are still there")
    assert list((tmp_path / "checkpoints").glob("checkpoint-*.npz")), "it was not saved"


def test_what_is_wrong_is_raised_where_it_is_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--levelname: no such flag; did you mean --level_name"):
        mlma.train(levelname="catch", logdir=tmp_path)
    with pytest.raises(ValueError, match="--batch_size=-1: must be at least 0"):
        mlma.train(level_name="catch", logdir=tmp_path, batch_size=-1)
    with pytest.raises(ValueError, match=r"mode: train\(\) starts"):
        mlma.train(level_name="catch", logdir=tmp_path, mode="test")
    run = mlma.train(level_name="cacth", logdir=tmp_path, progress=False)
    with pytest.raises(ValueError, match="--level_name=cacth: no such level; nearest: catch"):
        run.wait(120)
    assert repr(run).endswith("failed with code 2>")
