"""tools/setup.sh: which interpreter it takes, and the one line for those that it does not. Installs nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlma.utils.code_layout import supported_pythons
from tests.support.runs import ROOT


def checkout_that_runs(command: str, folder: Path) -> Path:
    """A checkout whose setup.sh does nothing but this."""
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "pyproject.toml", folder)
    script, ending = (ROOT / "tools" / "setup.sh").read_text(), 'main "$@"\n'
    assert script.endswith(ending)
    (folder / "tools" / "setup.sh").write_text(script.removesuffix(ending) + command + "\n")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose setup.sh only looks for Python."""
    return checkout_that_runs('find_python; echo "$python"', tmp_path)


def interpreter(folder: Path, name: str, version: str) -> Path:
    """A stand-in that answers the two questions of setup.sh."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\ncase "$2" in *version*) echo {version};; *) echo "$0";; esac\n')
    path.chmod(0o755)
    return path


def find(checkout: Path, *path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": ":".join([*path, "/usr/bin", "/bin"]), **environment}
    command = ["bash", str(checkout / "tools" / "setup.sh")]
    return subprocess.run(command, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize("minor", supported_pythons())
def test_the_python_of_the_system_is_taken(minor: str, checkout: Path) -> None:
    python = interpreter(checkout / "bin", "python3", f"{minor}.4")
    assert find(checkout, str(python.parent)).stdout == f"{python}\n"


def test_another_name_is_tried_where_python3_is_too_old(checkout: Path) -> None:
    interpreter(checkout / "bin", "python3", "3.10.12")
    newest = interpreter(checkout / "bin", f"python{supported_pythons()[-1]}", f"{supported_pythons()[-1]}.0")
    assert find(checkout, str(newest.parent)).stdout == f"{newest}\n"


def test_the_one_of_the_environment_stays_until_another_is_named(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    own = interpreter(checkout / ".venv" / "bin", "python", "3.12.1")
    other = interpreter(checkout / "bin", "python3", "3.13.0")
    assert Path(find(checkout, str(other.parent)).stdout.strip()).name == own.name
    assert find(checkout, str(other.parent), PYTHON="python3").stdout == f"{other}\n"


@pytest.mark.parametrize(("version", "word"), [("3.10.13", "too old"), ("3.14.0", "too new"), ("2.7.18", "too old")])
def test_a_python_that_does_not_fit_is_one_line(version: str, word: str, checkout: Path) -> None:
    python = interpreter(checkout / "bin", "python", version)
    done = find(checkout, PYTHON=str(python))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert re.fullmatch(rf"setup: needs Python 3\.11 to 3\.13; .*{version}, {word}: install .*\n", done.stderr)


def test_no_python_at_all_is_one_line(checkout: Path) -> None:
    done = find(checkout, PYTHON="/nowhere/python3")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "found no /nowhere/python3" in done.stderr


@pytest.mark.parametrize(
    ("version", "given", "chosen"), [("12", "", ""), ("13", "", ""), ("14", "", "g++-13"), ("14", "clang++", "clang++")]
)
def test_horovod_gets_a_compiler_that_it_compiles_with(version: str, given: str, chosen: str, tmp_path: Path) -> None:
    checkout = checkout_that_runs('choose_compiler; echo "${CXX:-}"', tmp_path)
    for name in ("g++", "g++-13"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {version}\n")
        (tmp_path / name).chmod(0o755)
    done = find(checkout, str(tmp_path), **({"CXX": given} if given else {}))
    assert (done.stdout, done.stderr) == (f"{chosen}\n", "")


def test_the_set_up_keeps_what_it_did_not_install() -> None:
    assert re.search(r"arguments=\(sync --inexact\)", (ROOT / "tools" / "setup.sh").read_text())


def test_the_interpreter_of_these_tests_is_one_that_is_allowed() -> None:
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in supported_pythons()
    assert os.access(sys.executable, os.X_OK)
