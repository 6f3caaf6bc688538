"""Where the code lies: in a checkout, or in an installed package.

A wheel has all of its code inside `mlma/`, so that it takes no other name in site-packages: `agents/` and `benchmarks/`
become `mlma.agents` and `mlma.benchmarks`, and what stands beside `mlma/` in a checkout, such as experiment.py, stands
in `mlma/checkout/`. tools/wheel_layout.py makes it so; the reasons are in docs/decisions/0019-package.md.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
_BESIDE = PACKAGE / "checkout"
IS_INSTALLED = _BESIDE.is_dir()
ROOT = _BESIDE if IS_INSTALLED else PACKAGE.parent  # the folder of experiment.py
COMMIT_FILE = "COMMIT"  # in ROOT of an installed package: the commit that it was built from
PROGRAM_ENV = "MLMA_PROGRAM"  # environment variable: how the command was called, if not by the name of its script


def program(script: str) -> str:
    """What a user types to run this script: `python experiment.py` or `mlma train`."""
    return os.environ.get(PROGRAM_ENV) or f"python {script}"


@functools.cache
def supported_pythons() -> tuple[str, ...]:
    """The versions that the line `requires-python` of pyproject.toml allows, such as 3.11."""
    line = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert line
    return tuple(f"3.{minor}" for minor in range(int(line[1]), int(line[2])))


def install_hint(package: str) -> str:
    """The command that adds a package to the Python that runs this. The set-up's .venv has no pip."""
    uv = ROOT / ".tools" / "uv" / "bin" / "uv"
    if not importlib.util.find_spec("pip"):
        return f"{uv if uv.exists() else 'uv'} pip install --python {sys.executable} {package}"
    return f"{sys.executable} -m pip install {package}"


def setup_hint(target: str) -> str:
    """The command that installs one of the set-up's groups: of make in a checkout, of mlma in an installed package."""
    return f"mlma {target}" if IS_INSTALLED else f"make {target}"


def install_agents_name() -> None:
    """Lets code of a user say `agents.impala` with an installed package, too, unless he has an `agents` of his own."""
    if IS_INSTALLED and not any(isinstance(finder, _AgentsFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AgentsFinder())


class _AgentsFinder(MetaPathFinder):
    """Finds `agents` and its modules as those of `mlma.agents`, if no `agents` is on the import path."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See importlib."""
        top, _, below = name.partition(".")
        if top != "agents" or (not below and PathFinder.find_spec(name)):
            return None
        if below and sys.modules.get(top) is not sys.modules.get("mlma.agents"):
            return None  # the user's own
        try:
            module = importlib.import_module(f"mlma.{name}")
        except ModuleNotFoundError as missing:
            if missing.name == f"mlma.{name}":
                return None
            raise
        return importlib.util.spec_from_loader(name, _Existing(module))


class _Existing(Loader):
    """Gives a module that is loaded already a second name."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """See importlib."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """See importlib. The import system has given the module the spec of its second name."""
        module.__spec__ = self._spec
