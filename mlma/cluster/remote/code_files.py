"""The files that must be identical on every host of a run."""

from __future__ import annotations

from pathlib import Path

from mlma.cluster.planning.hosts import CHECKOUT


def code_files() -> dict[str, Path]:
    """Name relative to the checkout -> file: experiment.py, and everything in agents/ and mlma/."""
    found = [
        path for folder in ("agents", "mlma") for path in sorted(CHECKOUT.glob(f"{folder}/**/*")) if path.is_file()
    ]
    paths = [CHECKOUT / "experiment.py", *(path for path in found if "__pycache__" not in path.parts)]
    return {str(path.relative_to(CHECKOUT)): path for path in paths}
