"""The wheel: what is in it, that it takes one name in site-packages, and that it runs from there.

Installing it is tests/integration/test_installed_package.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from mlma.command.main import SUBCOMMANDS
from mlma.utils.code_layout import supported_pythons
from tests.support.runs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# In a process that has the wheel, and nothing of the checkout, on its import path.
IMPORTS = """
import json, sys
from mlma.utils.code_layout import IS_INSTALLED, ROOT, install_agents_name
from mlma.core.catalog import ALGORITHMS, NETWORKS
from mlma.monitoring.run_log import git_commit
from mlma.evaluation.saved_policy import MAKE_AGENT
from mlma.api.training import SCRIPT
before = sorted(name for name in sys.modules if name.split(".")[0] == "agents")
install_agents_name()
import agents.ops, mlma.agents.ops
import mlma.benchmarks.common
result = {
    "installed": IS_INSTALLED, "script": (ROOT / "experiment.py").exists(), "before": before,
    "same": agents.ops is mlma.agents.ops and agents is mlma.agents, "spec": agents.__spec__.name,
    "catalog": [ALGORITHMS["impala"].agent, NETWORKS["MLPAgent"].build], "commit": git_commit(), "path": mlma.__path__,
    "make_agent": MAKE_AGENT, "api_script": SCRIPT == ROOT / "experiment.py",
}
print(json.dumps(result))
"""
OWN_AGENTS = """
from mlma.utils.code_layout import install_agents_name
install_agents_name()
import agents, agents.mine
import mlma.agents
assert agents.MINE and agents is not mlma.agents
try:
    import agents.impala
except ModuleNotFoundError:
    print("own")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(site: Path, folder: Path, *arguments: str) -> str:
    """The output of Python with the wheel on its path, in an empty folder."""
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_takes_one_name_in_site_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"mlma"}


def test_the_wheel_has_every_file_of_the_code(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        script = next(each for each in archive.infolist() if each.filename.endswith("doom_engine.sh"))
    tracked = subprocess.run(
        ["git", "ls-files", "mlma", "agents", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    expected = {
        name if name.startswith("mlma/") else f"mlma/{name}"
        for name in tracked
        if not name.startswith("benchmarks/log/") and (ROOT / name).exists()
    }
    assert len(expected) > 180
    assert expected - names == set()
    data = {"mlma/envs/published/curves.csv", "mlma/evaluation/report.css", "mlma/envs/suites/doom_engine.sh"}
    beside = {f"mlma/checkout/{name}" for name in ("experiment.py", "run_experiment_mm_raw.py", "tools/setup.sh")}
    assert data | beside <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("mlma/benchmarks/log")]
    assert script.external_attr >> 16 & 0o111, "executable"


def test_the_wheel_has_a_command_and_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        entries = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
        fields = archive.read(metadata).decode().split("\n\n")[0].splitlines()
    assert "mlma = mlma.command.main:main" in entries
    assert f"Requires-Python: <3.{int(supported_pythons()[-1][2:]) + 1},>={supported_pythons()[0]}" in fields
    assert "Provides-Extra: learner" in fields
    assert any(line.startswith("Requires-Dist: horovod") and "extra == 'learner'" in line for line in fields)


def test_the_code_of_the_wheel_imports_from_inside_itself(site: Path, tmp_path: Path) -> None:
    result = json.loads(python(site, tmp_path, "-c", IMPORTS))
    assert result["path"] == [f"{site}/mlma"]
    assert result["installed"] and result["script"] and result["before"] == []
    assert result["same"] and result["spec"] == "mlma.agents"
    assert result["catalog"] == ["mlma.agents.impala:Impala", "mlma.agents.networks.zoo:mlp"]
    assert result["make_agent"] == "mlma.agents:make_agent" and result["api_script"]
    assert len(result["commit"].rstrip("+")) == 40


def test_agents_of_the_user_are_his_own(site: Path, tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "agents" / "mine.py").write_text("")
    assert python(site, tmp_path, "-c", OWN_AGENTS) == "own\n"


def test_the_command_of_the_wheel_runs_the_script_of_the_wheel(site: Path, tmp_path: Path) -> None:
    assert f"{site}/mlma/checkout" in python(site, tmp_path, "-m", "mlma", "--version")
    assert "usage: mlma train" in python(site, tmp_path, "-m", "mlma", "train", "--help")
    assert list(tmp_path.iterdir()) == []


def test_the_extra_is_the_group_of_the_set_up() -> None:
    assert PROJECT["project"]["optional-dependencies"]["learner"] == PROJECT["dependency-groups"]["learner"]
    assert PROJECT["project"]["optional-dependencies"]["optuna"] == PROJECT["dependency-groups"]["optuna"]
    assert set(PROJECT["project"]["optional-dependencies"]["vizdoom"]) <= set(PROJECT["dependency-groups"]["vizdoom"])


def test_the_oldest_python_is_the_one_that_lint_and_types_check() -> None:
    oldest = supported_pythons()[0]
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_every_subcommand_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "install.md").read_text()
    assert [name for name in SUBCOMMANDS if f"mlma {name}" not in guide] == []
