"""Provenance of a result: the commit of this code and the versions of the packages it uses. Imports nothing heavy."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

from mlma.utils.code_layout import COMMIT_FILE, IS_INSTALLED, ROOT

PACKAGES = ("tensorflow-cpu", "tensorflow", "dm-sonnet", "numpy", "gymnasium", "ale-py")


def git_commit() -> str | None:
    """The commit of the running code, with a + if files have changed since; None if neither is known.

    An installed package has the commit that it was built from; the repository around it is somebody else's.
    """
    if IS_INSTALLED:
        file = ROOT / COMMIT_FILE
        return file.read_text().strip() if file.exists() else None
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def package_versions() -> dict[str, str]:
    """Name -> version of those PACKAGES that are installed."""
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
