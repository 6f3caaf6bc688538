"""Exported policies act as the original does, reloaded in a fresh process without this package; their model card."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import yaml

import mlma
from mlma.export.__main__ import main
from mlma.export.standalone import FILES
from tests.support.runs import ROOT
from tests.support.saved_runs import write_run

RUNS: dict[str, dict[str, Any]] = {
    "shallow": {"level_name": "atari_pong", "agent_name": "ShallowConvNetAgent"},
    "resnet_lstm": {"level_name": "atari_pong", "agent_name": "ResNetLSTMAgent"},
}
BATCH, FEW, MANY = 8, 6, 125  # MANY steps of BATCH are 1,000 observations
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Logdirs of Atari policies with random weights."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: write_run(folder / name, **flags) for name, flags in RUNS.items()}


def export(runs: dict[str, Path], folder: Path, formats: list[str]) -> None:
    """Exports all runs into folders of their names."""
    for name, logdir in runs.items():
        assert main([str(logdir), f"--format={','.join(formats)}", f"--output={folder / name}"]) == 0


@pytest.fixture(scope="module")
def saved_models(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(runs, folder, ["savedmodel"])
    return folder


def differences(runs: dict[str, Path], folder: Path, formats: list[str], steps: int) -> dict[str, float]:
    """Run and format -> the largest difference of logits: plays in a fresh process, and compares action by action."""
    rng = np.random.default_rng(1)
    given = {
        "observation": rng.integers(0, 256, (steps, BATCH, 84, 84, 1), np.uint8),
        "reward": rng.normal(size=(steps, BATCH)).astype(np.float32),
        "starts": rng.random((steps, BATCH)) < 0.1,
    }
    np.savez(folder / "given.npz", allow_pickle=False, **given)
    played = [f"{folder / name}:{each}" for name in runs for each in formats]
    script = str(ROOT / "tests" / "support" / "play_export.py")
    subprocess.run([sys.executable, "-I", script, str(folder / "given.npz"), *played], cwd=folder, check=True)
    found = {}
    for name, logdir in runs.items():
        policy = mlma.load_policy(logdir, actions="greedy")
        logits: list[Any] = []
        actions: list[Any] = []
        for observation, reward, starts in zip(*given.values(), strict=True):
            if actions:
                policy.reset(starts)
            actions.append(policy(observation, reward))
            assert policy.outputs
            logits.append(policy.outputs.logits)
        for each in formats:
            reloaded = np.load(f"{folder / name}-{each}.npz")
            assert np.array_equal(reloaded["action"], actions), f"{name}, {each}"
            found[f"{name}, {each}"] = float(np.abs(reloaded["logits"] - logits).max())
    return found


def test_a_saved_model_acts_as_the_original(runs: dict[str, Path], saved_models: Path) -> None:
    for name, found in differences(runs, saved_models, ["savedmodel"], FEW).items():
        assert found <= TOLERANCE, name


@pytest.mark.commands  # for `make install-export` and minutes
@pytest.mark.timeout(1200)
def test_all_formats_act_as_the_original_for_1000_observations(runs: dict[str, Path], tmp_path: Path) -> None:
    export(runs, tmp_path, list(FILES))
    found = differences(runs, tmp_path, list(FILES), MANY)
    print(json.dumps(found, indent=1))
    assert len(found) == 6
    for name, difference in found.items():
        assert difference <= TOLERANCE, name


def test_stacks_are_another_signature(runs: dict[str, Path], saved_models: Path) -> None:
    loaded = tf.saved_model.load(str(saved_models / "shallow" / "saved_model"))
    frames = np.random.default_rng(1).integers(0, 256, (4, 2, 84, 84, 1), np.uint8)
    policy = mlma.load_policy(runs["shallow"])
    for frame in frames:
        policy(frame)
    stacked = loaded.signatures["act_on_stacks"](stack=tf.constant(np.concatenate(frames, axis=-1)))
    assert policy.outputs
    np.testing.assert_allclose(stacked["logits"], policy.outputs.logits, atol=TOLERANCE)


def test_the_card_says_what_the_run_says(tmp_path: Path) -> None:
    logdir = write_run(tmp_path / "run", level_name="CartPole-v1")
    session = {"command": "/x/bin/python /x/experiment.py --level_name=CartPole-v1", "commit": "abc", "started": "2026"}
    (logdir / "sessions.json").write_text(json.dumps([session]))
    (logdir / "metrics.csv").write_text("frames,return/mean\n4000,77.25\n")
    (logdir / "evaluation").mkdir()
    scores = {"mean": 150.0, "standard_error": 5.0, "median": 149, "min": 90, "max": 200, "episodes": 16}
    for step, frames in ((7, 4000), (5, 3000)):
        record = scores | {"frames": frames, "actions": "sampled", "date": "2026-11-26 02:22:24"}
        record["mean"] = scores["mean"] if step == 7 else 12.0
        (logdir / "evaluation" / f"evaluation-00000000{step}-1.json").write_text(json.dumps(record))
    assert main([str(logdir), "--license=cc-by-4.0", "--name=A pole"]) == 0
    card = (logdir / "export" / "README.md").read_text()
    matter, text = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, flags=re.S).groups()  # type: ignore[union-attr]
    front = yaml.safe_load(matter)
    assert front["license"] == "cc-by-4.0" and "CartPole-v1" in front["tags"]
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == "CartPole-v1" and result["metrics"][0]["value"] == "150.00 +/- 20.00"
    for line in (
        "# A pole",
        "| 150.00 ± 5.00 | 149 | 90 to 200 | 16 | sampled | 2026-11-26 |",
        "`python experiment.py --level_name=CartPole-v1`",
        "| commit | abc |",
        "Whole episodes with raw rewards",
        "| `observation` | float32 | [B, 4] |",
        "Mean of the last 100 episodes of training: 77.25.",
    ):
        assert line in text, line
    assert "12.00" not in text, "the score of another checkpoint"


def test_what_cannot_be_exported_is_one_line(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").touch()
    for arguments, line in (
        ([str(tmp_path)], f"{tmp_path}: has no config.json; allowed: a logdir"),
        ([str(runs["shallow"]), "--format=torch"], "--format=torch: must be one of savedmodel, onnx, tflite"),
        ([str(runs["shallow"]), f"--output={tmp_path}"], "has mine.txt that this command did not write"),
        ([str(runs["shallow"]), "--checkpoint=best"], "there is no checkpoint best"),
    ):
        assert main(arguments) == 2
        errors = capsys.readouterr().err
        assert line in errors and errors.count("\n") == 1
    assert (tmp_path / "mine.txt").exists()
