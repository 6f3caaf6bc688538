"""The files that every host of a run must have in the same version."""

from __future__ import annotations

from pathlib import Path

from mlma.cluster.planning.launch_plan import CHECKOUT


def code_files() -> dict[str, Path]:
    """What must be the same everywhere, by name relative to the checkout: the code, and the tables and scripts beside it."""
    found = [
        path for folder in ("agents", "mlma") for path in sorted(CHECKOUT.glob(f"{folder}/**/*")) if path.is_file()
    ]
    paths = [CHECKOUT / "experiment.py", *(path for path in found if "__pycache__" not in path.parts)]
    return {str(path.relative_to(CHECKOUT)): path for path in paths}
