"""Checkpoints: everything a run needs to continue, in one file that is written atomically.

A file holds the variables by name and a description in JSON (frames, learner step, level, network, allocated seeds).
It is one .npz instead of TensorFlow's own format, because a single file can be renamed into place, and names and
shapes can be compared before anything is changed. See docs/decisions/0004-checkpoints.md. Not here: what is saved and
restored (mlma/learning/run_state.py).
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from mlma.utils.atomic_file import atomic_write

BEST_NAME = "best.npz"


class CheckpointMismatchError(ValueError):
    """The file belongs to another network or level, or is not a checkpoint."""


class Checkpoints:
    """The checkpoints of one run: the last `keep`, and the one with the best return."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def save(self, step: int, variables: dict[str, Any], meta: dict[str, Any]) -> Path:
        """Saves the variables and their description; deletes checkpoints that are too old."""
        path = self._write(f"checkpoint-{step:09d}.npz", variables, meta)
        for old in self._all()[: -self._keep]:
            old.unlink(missing_ok=True)
        return path

    def save_best(self, variables: dict[str, Any], meta: dict[str, Any]) -> Path:
        """Replaces the best checkpoint."""
        return self._write(BEST_NAME, variables, meta)

    def last(self) -> Path | None:
        """The checkpoint with the highest step, if any."""
        paths = self._all()
        return paths[-1] if paths else None

    def find(self, which: str) -> Path:
        """`last`, `best` or a file; ValueError if there is no such checkpoint."""
        path = self.last() if which == "last" else self._folder / BEST_NAME if which == "best" else Path(which)
        if path is None or not path.is_file():
            raise ValueError(f"--test_checkpoint={which}: no such checkpoint in {self._folder}")
        return path

    def _all(self) -> list[Path]:
        return sorted(p for p in self._folder.glob("checkpoint-*.npz") if re.fullmatch(r"checkpoint-\d+\.npz", p.name))

    def _write(self, name: str, variables: dict[str, Any], meta: dict[str, Any]) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        with atomic_write(path) as file:
            np.savez(file, __meta__=np.frombuffer(json.dumps(meta).encode(), np.uint8), **variables)
        return path


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables by name, description). CheckpointMismatchError if the file is not a checkpoint or is damaged."""
    try:
        with np.load(path) as file:
            variables = {name: file[name] for name in file.files}
        meta = json.loads(variables.pop("__meta__").tobytes())
        # Checkpoints of version 0.1 call the target network's variables slow/...
        return {re.sub("^slow/", "target/", name): value for name, value in variables.items()}, meta
    except (OSError, KeyError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointMismatchError(f"{path}: not a checkpoint: {error}") from None


def check_compatible(
    path: Path, variables: dict[str, Any], meta: dict[str, Any], expected: dict[str, Any], identity: dict[str, Any]
) -> None:
    """CheckpointMismatchError, with the difference, for a checkpoint of another network or level.

    `expected` is name -> variable of this run, `identity` what its description must contain.
    """
    for key, value in identity.items():
        if meta.get(key) != value:
            raise CheckpointMismatchError(
                f"{path}: was made with {key}={meta.get(key)}, this run has {key}={value}; use another --logdir"
            )
    missing, unknown = expected.keys() - variables.keys(), variables.keys() - expected.keys()
    shapes = [
        f"{name} {variables[name].shape} != {tuple(expected[name].shape)}"
        for name in expected
        if name in variables and variables[name].shape != tuple(expected[name].shape)
    ]
    if missing or unknown or shapes:
        differences = [f"lacks {', '.join(sorted(missing)[:3])}"] * bool(missing)
        differences += [f"has unknown {', '.join(sorted(unknown)[:3])}"] * bool(unknown) + shapes[:3]
        raise CheckpointMismatchError(
            f"{path}: belongs to another network: {'; '.join(differences)}; use another --logdir"
        )
