"""Writes a policy as a SavedModel, as ONNX and for LiteRT; and measures how far each is from the original.

ONNX needs tf2onnx, and both it and LiteRT their runtimes for the comparison: `make install-export`. Not here: the
function that is exported (mlma/export/policy_function.py), how a file is loaded again (mlma/export/standalone.py).
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlma.evaluation.network_policy import NetworkPolicy
from mlma.evaluation.saved_policy import SavedPolicy
from mlma.export.policy_function import PolicyFunction
from mlma.export.standalone import FILES, Policy

ONNX_OPSET = 18
ACT, ACT_ON_STACKS = "serving_default", "act_on_stacks"  # signatures
TOLERANCE = 1e-5  # of logits and q-values; relative to the largest, where that is more than 1
BATCH, STEPS = 4, 16  # of the comparison
NEEDED = {"savedmodel": (), "onnx": ("tf2onnx", "onnxruntime"), "tflite": ("ai_edge_litert",)}


def check_formats(names: list[str]) -> None:
    """ValueError in one line for a format that does not exist, or whose packages are missing."""
    for name in names:
        if name not in FILES:
            raise ValueError(f"--format={name}: must be one of {', '.join(FILES)}, or several separated by commas")
        if missing := [package for package in NEEDED[name] if not importlib.util.find_spec(package)]:
            raise ValueError(f"--format={name}: needs {' and '.join(missing)}; install it with: make install-export")


def write_format(name: str, function: PolicyFunction, folder: Path) -> Path:
    """Writes one format into the folder; the path of its file or folder."""
    path = folder / FILES[name]
    {"savedmodel": _write_savedmodel, "onnx": _write_onnx, "tflite": _write_tflite}[name](function, path)
    return path


def _write_savedmodel(function: PolicyFunction, path: Path) -> None:
    signatures = {ACT: function.act.get_concrete_function()}
    if function.act_on_stacks is not None:
        signatures[ACT_ON_STACKS] = function.act_on_stacks.get_concrete_function()
    tf.saved_model.save(function, str(path), signatures=signatures)


def _write_onnx(function: PolicyFunction, path: Path) -> None:
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    import tf2onnx

    captured = function.act.get_concrete_function().captured_inputs
    if tensors := [tensor for tensor in captured if tensor.dtype != tf.resource]:
        raise ValueError(
            f"--format=onnx: the network uses {len(tensors)} tensors that are no variables, such as "
            f"{tensors[0].dtype.name} {tuple(tensors[0].shape)}; make them numpy arrays"
        )
    model, _ = tf2onnx.convert.from_function(function.act, [function.inputs], opset=ONNX_OPSET)
    path.write_bytes(model.SerializeToString())


def _write_tflite(function: PolicyFunction, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(function, folder, signatures={ACT: function.act.get_concrete_function()})
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[ACT]).convert())


def difference(name: str, saved: SavedPolicy, folder: Path) -> float:
    """The largest difference of logits from the original's, over random observations and episodes.

    RuntimeError if it exceeds the tolerance, or an action differs.
    """
    original, reloaded = NetworkPolicy(saved, greedy=True, seed=1), Policy(folder, name)
    rng, largest = np.random.default_rng(1), 0.0
    for _ in range(STEPS):
        parts = {"observation": random_array(rng, saved.spec.observation)}
        parts |= {key: random_array(rng, leaf) for key, leaf in saved.spec.extras.items() if key != "level"}
        rewards, starts = rng.normal(size=BATCH).astype(np.float32), rng.random(BATCH) < 0.1
        if "level" in reloaded.about["inputs"]:
            parts["level"] = np.zeros(BATCH, np.int32)
        expected, actual = original(parts, rewards), reloaded(parts, rewards)
        assert original.outputs
        logits = original.outputs.logits
        found = float(np.abs(logits - reloaded.outputs["logits"]).max())
        scale = max(1.0, float(np.abs(logits[logits > MASKED]).max(initial=0)))
        if not found <= TOLERANCE * scale or not np.allclose(expected, actual, atol=TOLERANCE * scale, rtol=0):
            raise RuntimeError(f"{folder / FILES[name]}: its logits differ by {found:g} from the original's")
        largest = max(largest, found)
        for each in (original, reloaded):
            each.reset(starts)
    return largest


MASKED = -1e8  # smaller logits are those of actions that a level does not have


def random_array(rng: Any, leaf: Any) -> Any:
    """Random values [B, ...] of an observation or an extra."""
    shape = (BATCH, *leaf.shape)
    if leaf.dtype == "uint8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    return (rng.integers(0, 2, shape) if leaf.dtype.startswith("int") else rng.normal(size=shape)).astype(leaf.dtype)
