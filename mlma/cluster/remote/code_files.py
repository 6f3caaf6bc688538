"""The files that must be identical on every host of a run."""

from __future__ import annotations

from pathlib import Path

from mlma.utils.code_layout import IS_INSTALLED, PACKAGE, ROOT


def code_files() -> dict[str, Path]:
    """Name in a checkout -> file: experiment.py, and everything in agents/ and mlma/.

    An installed package has agents/ inside mlma/; so have the hosts that get their code from one.
    """
    folders = [PACKAGE] if IS_INSTALLED else [ROOT / "agents", ROOT / "mlma"]
    files = {"experiment.py": ROOT / "experiment.py"}
    for folder in folders:
        for path in sorted(folder.glob("**/*")):
            if path.is_file() and "__pycache__" not in path.parts and not (IS_INSTALLED and path.is_relative_to(ROOT)):
                files[str(path.relative_to(folder.parent))] = path
    return files


def is_this_code(folder: str) -> bool:
    """Whether workers in this folder of this machine run the code that runs here."""
    return folder == str(ROOT)
