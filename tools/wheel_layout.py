"""Lays out the code for the wheel: everything inside mlma/, so that `pip install` takes no other top-level name.

Two hooks of hatchling (pyproject.toml). `agents/` and `benchmarks/` become `mlma.agents` and `mlma.benchmarks`, and
their names in imports change with them; what stands beside mlma/ and is needed to run goes to mlma/checkout/. The
reasons are in docs/decisions/0019-package.md.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

MOVED = ("agents", "benchmarks")  # folders that become packages inside mlma
# What a run needs besides: the scripts, and what the frontend copies to hosts and sets them up with.
BESIDE = (
    "experiment.py", "run_experiment_mm_raw.py", "pyproject.toml", "Makefile", "README.md", "LICENSE", "tools/setup.sh",
)  # fmt: skip
IN_IMPORT = re.compile(rf"^(\s*(?:from|import) )({'|'.join(MOVED)})(?=[. ])", flags=re.M)
# "agents:make_agent", "agents.impala:Impala", "benchmarks.replay"
IN_TEXT = re.compile(rf"""(["'])({"|".join(MOVED)})(?=:\w|\.\w+[.:"'])""")
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "log", ".DS_Store")


class WheelLayout(BuildHookInterface[Any]):
    """Called by hatchling; an editable installation stays a checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Makes the layout in a folder of its own and has it packed."""
        if version != "editable":
            self._folder = Path(tempfile.mkdtemp(prefix="mlma-wheel-"))
            lay_out(Path(self.root), self._folder)
            build_data["force_include"][str(self._folder / "mlma")] = "mlma"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes the folder."""
        if version != "editable":
            shutil.rmtree(self._folder)


class Commands(MetadataHookInterface):
    """Called by hatchling: the commands that an installation has."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Adds them to what pyproject.toml says."""
        metadata["scripts"] = {"mlma": "mlma.command.main:main"}


def lay_out(root: Path, folder: Path) -> None:
    """Writes folder/mlma from the checkout `root`."""
    package = folder / "mlma"
    shutil.copytree(root / "mlma", package, ignore=IGNORED)
    for name in MOVED:
        shutil.copytree(root / name, package / name, ignore=IGNORED)
    for name in BESIDE:
        target = package / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target)
    if commit := _commit(root):
        (package / "checkout" / "COMMIT").write_text(f"{commit}\n")
    for path in package.rglob("*.py"):
        text = path.read_text()
        moved = IN_TEXT.sub(r"\1mlma.\2", IN_IMPORT.sub(r"\1mlma.\2", text))
        _check(path, moved)
        if moved != text:
            path.write_text(moved)


def _check(path: Path, text: str) -> None:
    """ValueError if the module would still import what the wheel does not have."""
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        if left := [name for name in names if name.split(".")[0] in (*MOVED, "experiment", "tests", "tools")]:
            raise ValueError(f"{path.name}: imports {left[0]}, which is not in the wheel")


def _commit(root: Path) -> str:
    """The commit, with a + if files have changed since; "" outside a checkout."""
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
