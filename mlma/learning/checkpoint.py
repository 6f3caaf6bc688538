"""Checkpoints: everything a run needs to continue, in one file that is written atomically.

A file holds the variables by name and a description in JSON (frames, learner step, level, network, allocated seeds, a
digest of all of it). It is one .npz instead of TensorFlow's own format, because a single file can be renamed into
place, and names and shapes can be compared before anything is changed. See docs/decisions/0004-checkpoints.md. Not
here: how the file is laid out and checked (mlma/learning/checkpoint_file.py), what is saved and restored
(mlma/learning/run_state.py).
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlma.learning.checkpoint_file import CheckpointMismatchError, load_checkpoint, write_checkpoint
from mlma.utils.atomic_file import atomic_write
from mlma.utils.own_files import make_own_folder
from mlma.utils.side_task import describe

logger = logging.getLogger(__name__)

BEST_NAME = "best.npz"
DAMAGED_SUFFIX = ".damaged"
# What the description of an older checkpoint does not say.
BEFORE_THE_FLAG = {"pixel_scaling": "centered", "env_args": "", "action_bounds": "clip"}


class LoadedCheckpoint(NamedTuple):
    """The content of a checkpoint, and those newer ones that are damaged."""

    path: Path
    variables: dict[str, Any]
    meta: dict[str, Any]
    damaged: list[Path]


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

    def load(self, which: str) -> LoadedCheckpoint:
        """Loads `last`, `best` or a file. A damaged last one is skipped for the newest that can be read.

        ValueError if there is no such checkpoint, CheckpointMismatchError if it, or each of the last ones, is damaged.
        """
        if which == "last":
            if (loaded := self.load_last()) is not None:
                return loaded
        elif (path := self._folder / BEST_NAME if which == "best" else Path(which)).is_file():
            return LoadedCheckpoint(path, *load_checkpoint(path), [])
        raise ValueError(f"--test_checkpoint={which}: no such checkpoint in {self._folder}")

    def load_last(self) -> LoadedCheckpoint | None:
        """The newest checkpoint that can be read; None if there is none at all. A warning says what is damaged."""
        damaged: dict[Path, str] = {}
        for path in reversed(self._all()):
            try:
                loaded = LoadedCheckpoint(path, *load_checkpoint(path), list(damaged))
            except CheckpointMismatchError as problem:
                if path.exists():  # training deletes old ones while an evaluation looks
                    damaged[path] = str(problem)
                continue
            for reason in damaged.values():
                logger.warning("damaged, continuing with %s: %s", path.name, reason)
            return loaded
        if damaged:
            newest = next(iter(damaged.values()))
            raise CheckpointMismatchError(
                f"no checkpoint in {self._folder} can be read ({len(damaged)} damaged), the newest: {newest}; nothing "
                "was changed; use another --logdir to start from scratch"
            )
        return None

    def set_aside(self, damaged: list[Path]) -> None:
        """Renames damaged checkpoints, which would otherwise count as the newest ones."""
        for path in damaged:
            try:
                os.replace(path, path.with_name(path.name + DAMAGED_SUFFIX))
            except OSError as problem:
                logger.warning("could not rename a damaged checkpoint: %s", describe(problem))

    def _all(self) -> list[Path]:
        return sorted(p for p in self._folder.glob("checkpoint-*.npz") if re.fullmatch(r"checkpoint-\d+\.npz", p.name))

    def _write(self, name: str, variables: dict[str, Any], meta: dict[str, Any]) -> Path:
        make_own_folder(self._folder)
        path = self._folder / name
        with atomic_write(path) as file:
            write_checkpoint(file, variables, meta)
        return path


def check_compatible(
    path: Path, variables: dict[str, Any], meta: dict[str, Any], expected: dict[str, Any], identity: dict[str, Any]
) -> None:
    """CheckpointMismatchError, with the difference, for a checkpoint of another network or level.

    `expected` is name -> variable of this run, `identity` what its description must contain.
    """
    meta = BEFORE_THE_FLAG | meta
    for key, value in identity.items():
        if meta.get(key) != value:
            raise CheckpointMismatchError(
                f"{path}: was made with {key}={meta.get(key)}, this run has {key}={value}; use another --logdir"
            )
    missing, unknown = expected.keys() - variables.keys(), variables.keys() - expected.keys()
    common = [name for name in expected if name in variables]
    shapes = [
        f"{name} {variables[name].shape} != {tuple(expected[name].shape)}"
        for name in common
        if variables[name].shape != tuple(expected[name].shape)
    ]
    types = [
        f"{name} {variables[name].dtype} != {_dtype(expected[name])}"
        for name in common
        if variables[name].dtype != _dtype(expected[name])
    ]
    if missing or unknown or shapes or types:
        differences = [f"lacks {', '.join(sorted(missing)[:3])}"] * bool(missing)
        differences += [f"has unknown {', '.join(sorted(unknown)[:3])}"] * bool(unknown) + (shapes or types)[:3]
        raise CheckpointMismatchError(
            f"{path}: belongs to another network: {'; '.join(differences)}; use another --logdir"
        )


def _dtype(variable: Any) -> Any:
    """The numpy dtype of an array or of a TensorFlow variable."""
    return np.dtype(getattr(variable.dtype, "as_numpy_dtype", variable.dtype))
