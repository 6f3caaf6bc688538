"""Checkpoints: everything that a run needs to go on, in one file that is written whole or not at all.

A file holds the variables by name and a description in JSON (frames, learner step, level, network, shapes, random
state). One .npz rather than TensorFlow's own format, because one file can be renamed into place, and names and shapes
can be compared before anything is changed. See docs/decisions/checkpoints.md.
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


class CheckpointMismatch(ValueError):
    """The file is of another network or level, or is none."""


class Checkpoints:
    """The checkpoints of one run: the last few, and the best by return."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def save(self, step: int, variables: dict[str, Any], meta: dict[str, Any]) -> Path:
        path = self._write(f"checkpoint-{step:09d}.npz", variables, meta)
        for old in self._all()[: -self._keep]:
            old.unlink(missing_ok=True)
        return path

    def save_best(self, variables: dict[str, Any], meta: dict[str, Any]) -> Path:
        return self._write(BEST_NAME, variables, meta)

    def last(self) -> Path | None:
        found = self._all()
        return found[-1] if found else None

    def find(self, which: str) -> Path:
        """`last`, `best` or a file; ValueError if there is no such checkpoint."""
        path = self.last() if which == "last" else self._folder / BEST_NAME if which == "best" else Path(which)
        if path is None or not path.exists():
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
    """(variables by name, description)."""
    try:
        with np.load(path) as file:
            variables = {name: file[name] for name in file.files}
        meta = json.loads(variables.pop("__meta__").tobytes())
        # Checkpoints of 0.1 call the target network's variables slow/...
        return {re.sub("^slow/", "target/", name): value for name, value in variables.items()}, meta
    except (OSError, KeyError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointMismatch(f"{path}: is no checkpoint: {error}") from None


def check_compatible(
    path: Path, variables: dict[str, Any], meta: dict[str, Any], wanted: dict[str, Any], run: dict[str, Any]
) -> None:
    """Refuses a checkpoint of another network or level, naming the difference. `wanted` is name -> variable."""
    for key, value in run.items():
        if meta.get(key) != value:
            raise CheckpointMismatch(
                f"{path}: was made with {key}={meta.get(key)}, this run has {key}={value}; use another --logdir"
            )
    missing, unknown = wanted.keys() - variables.keys(), variables.keys() - wanted.keys()
    shapes = [
        f"{n} {variables[n].shape} != {tuple(wanted[n].shape)}"
        for n in wanted
        if n in variables and variables[n].shape != tuple(wanted[n].shape)
    ]
    if missing or unknown or shapes:
        parts = [f"lacks {', '.join(sorted(missing)[:3])}"] * bool(missing)
        parts += [f"has unknown {', '.join(sorted(unknown)[:3])}"] * bool(unknown) + shapes[:3]
        raise CheckpointMismatch(f"{path}: is of another network: {'; '.join(parts)}; use another --logdir")
