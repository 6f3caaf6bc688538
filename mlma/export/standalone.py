"""An exported policy without the package that trained it: needs numpy, and tensorflow, onnxruntime or ai-edge-litert.

    from policy import Policy

    policy = Policy(".")                     # this folder; format="onnx" chooses one of several
    action = policy(observations, rewards)   # int array [B] from arrays [B, ...]
    policy.reset(over)                       # a mask [B]: the next observation of these starts an episode

`observations` are those of policy.json: arrays [B, ...], or a dict of arrays with "observation" and the other inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
FILES = {"savedmodel": "saved_model", "onnx": "policy.onnx", "tflite": "policy.tflite"}


class Policy:
    """Maps batches of observations to actions, and keeps the state in between."""

    def __init__(self, folder: str | Path = ".", format: str = "", sample: bool = False, seed: int = 1) -> None:
        """`sample` draws actions from the policy; otherwise each is the one with the highest logit or q-value."""
        folder = Path(folder)
        self.about: dict[str, Any] = json.loads((folder / "policy.json").read_text())
        formats = [format] if format else [name for name, file in FILES.items() if (folder / file).exists()]
        self._run = RUNNERS[formats[0]](folder / FILES[formats[0]])
        self._rng = np.random.default_rng(seed) if sample and self.about["head"] == "policy" else None
        self._count = 0
        self._state: Arrays = {}
        self._is_first: Any = None
        self._last_action: Any = None
        self.outputs: Arrays = {}  # of the last step

    def __call__(self, observations: Any, rewards: Any = None) -> Any:
        """The actions [B]. `rewards` [B] arrived with the observations; some networks read them."""
        given = dict(observations) if isinstance(observations, dict) else {"observation": observations}
        if not self._count:
            self._start(len(given["observation"]))
        zeros, first = np.zeros(self._count, np.float32), self._is_first
        given["reward"] = np.where(first, 0, zeros if rewards is None else rewards)
        given["last_action"] = np.where(first.reshape([-1, *[1] * (self._last_action.ndim - 1)]), 0, self._last_action)
        inputs = {
            name: np.asarray((given | self._state | {"is_first": first})[name], spec["dtype"])
            for name, spec in self.about["inputs"].items()
        }
        self.outputs = self._run(inputs)
        self._state = {name: self.outputs[f"next_{name}"] for name in self._state}
        self._last_action = self.outputs["action"] if self._rng is None else self._sample(self.outputs["logits"])
        self._is_first = np.zeros(self._count, bool)
        return self._last_action

    def reset(self, where: Any = None) -> None:
        """Starts episodes: all, with any batch size, or those of a mask [B] or of indices."""
        if where is None:
            self._count = 0
        else:
            self._is_first[np.asarray(where)] = True

    def _start(self, count: int) -> None:
        self._count, self._is_first = count, np.ones(count, bool)
        last_action = self.about["inputs"].get("last_action", {"dtype": "int32", "shape": []})
        self._last_action = np.zeros([count, *last_action["shape"]], last_action["dtype"])
        specs = {name: self.about["inputs"][name] for name in self.about["state"]}
        self._state = {name: np.zeros([count, *spec["shape"]], spec["dtype"]) for name, spec in specs.items()}

    def _sample(self, logits: Any) -> Any:
        assert self._rng is not None
        probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
        cumulative = probabilities.cumsum(axis=-1)
        threshold = self._rng.random(self._count)[:, np.newaxis] * cumulative[:, -1:]
        return np.minimum((cumulative <= threshold).sum(axis=-1), logits.shape[-1] - 1).astype(np.int32)


def run_savedmodel(path: Path) -> Callable[[Arrays], Arrays]:
    """With tensorflow."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # must live as long as its signatures
    act = loaded.signatures["serving_default"]

    def run(inputs: Arrays) -> Arrays:
        assert loaded
        outputs = act(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return run


def run_onnx(path: Path) -> Callable[[Arrays], Arrays]:
    """With onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def run_tflite(path: Path) -> Callable[[Arrays], Arrays]:
    """With ai-edge-litert."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))  # must live as long as its signatures
    act = interpreter.get_signature_runner("serving_default")
    return lambda inputs: {name: np.array(array) for name, array in act(**inputs).items() if interpreter}


RUNNERS = {"savedmodel": run_savedmodel, "onnx": run_onnx, "tflite": run_tflite}
