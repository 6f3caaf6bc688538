"""What made a number: the commit of this code and the versions of what it stands on. Imports nothing heavy."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("tensorflow-cpu", "tensorflow", "dm-sonnet", "numpy", "gymnasium", "ale-py")


def git_commit() -> str | None:
    """Of the code that runs, with a + where it was changed since; None outside of a checkout."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def package_versions() -> dict[str, str]:
    found: dict[str, Any] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
