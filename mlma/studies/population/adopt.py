"""Copies a checkpoint into the folder of another member: `python -m mlma.studies.population.adopt SOURCE TARGET SEED`.

Weights, optimizer, frames and step stay as they are. The environments get new seeds, so that parent and copy do not
play the same episodes. A damaged checkpoint is not copied. A process of its own, since the controller has no numpy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mlma.learning.checkpoint_file import load_checkpoint, write_checkpoint
from mlma.utils.atomic_file import atomic_write
from mlma.utils.own_files import make_own_folder


def adopt(source: Path, target: Path, seed: int) -> None:
    """ValueError in one line if the source is not a whole checkpoint."""
    variables, meta = load_checkpoint(source)
    meta["seeds"] = [int(np.random.default_rng(seed).integers(2**30)), 0]
    make_own_folder(target.parent)
    with atomic_write(target) as file:
        write_checkpoint(file, variables, meta)


def main(argv: list[str]) -> int:
    """The exit code."""
    try:
        adopt(Path(argv[0]), Path(argv[1]), int(argv[2]))
    except (OSError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
