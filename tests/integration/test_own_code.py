"""An algorithm, a network and a suite are a file and a line each: adds those of the guides to a copy of the code, and
trains.

The files are the listings in docs/guides/own_*.md, and so are the lines.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT, Process, rows

CATALOG, REGISTRY = "mlma/core/catalog.py", "mlma/envs/registry.py"
ALGORITHMS, NETWORKS = "ALGORITHMS: dict[str, Algorithm] = {\n", "NETWORKS: dict[str, NetworkEntry] = {\n"
SUITES = "SUITE_MODULES = {\n"


def listings(guide: str) -> list[str]:
    text = (ROOT / "docs" / "guides" / f"{guide}.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.S)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code to which things can be added."""
    folder = tmp_path / "checkout"
    for name in ("mlma", "agents"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "experiment.py", folder)
    return folder


def add(checkout: Path, path: str, code: str, table_file: str = "", table: str = "", line: str = "") -> None:
    """Writes the file, and inserts the line at the start of the table."""
    (checkout / path).write_text(code)
    if table:
        text = (checkout / table_file).read_text()
        assert text.count(table) == 1
        assert line.count("\n") == 1, "one line"
        (checkout / table_file).write_text(text.replace(table, table + line))


def final_return(checkout: Path, folder: Path, *flags: str) -> float:
    """The mean return at the end of a run with this code."""
    command = [sys.executable, str(checkout / "experiment.py")]
    logdir = f"--logdir={folder}/run"
    with Process(folder, "run", *flags, "--num_actors=1", "--report_every_seconds=1", logdir, command=command) as run:
        assert run.wait(240) == 0, run.text()
    return rows(folder / "run")[-1]["return/mean"]


def test_an_algorithm_is_a_file_and_a_line(checkout: Path, tmp_path: Path) -> None:
    (agent,) = [code for code in listings("own_algorithm") if "class A2C" in code]
    (line,) = [code for code in listings("own_algorithm") if '"a2c": Algorithm(' in code]
    add(checkout, "agents/a2c.py", agent, CATALOG, ALGORITHMS, line)
    flags = ["--algorithm=a2c", "--level_name=catch", "--sample_reuse=1", "--total_environment_frames=4e5"]
    assert final_return(checkout, tmp_path, *flags) > 0.7


def test_a_network_is_a_file_and_a_line(checkout: Path, tmp_path: Path) -> None:
    (network,) = [code for code in listings("own_network") if "wide_mlp_lstm(spec" in code]
    (line,) = [code for code in listings("own_network") if "NetworkEntry(" in code]
    add(checkout, "agents/networks/wide_mlp.py", network, CATALOG, NETWORKS, line)
    flags = ["--agent_name=WideMLPLSTMAgent", "--level_name=catch", "--total_environment_frames=1e5"]
    assert final_return(checkout, tmp_path, *flags) > 0


def test_a_suite_is_a_file_and_a_line(checkout: Path, tmp_path: Path) -> None:
    (suite,) = [code for code in listings("own_environment") if "def env_spec" in code]
    (line,) = [code for code in listings("own_environment") if '"room":' in code]
    add(checkout, "mlma/envs/suites/room.py", suite, REGISTRY, SUITES, line)
    assert final_return(checkout, tmp_path, "--level_name=room", "--total_environment_frames=1e5") > 0


def test_a_gymnasium_environment_is_a_file(checkout: Path, tmp_path: Path) -> None:
    (room,) = [code for code in listings("own_environment") if "gymnasium.register" in code]
    add(checkout, "my_levels.py", room)
    assert final_return(checkout, tmp_path, "--level_name=my_levels:Room-v0", "--total_environment_frames=1e5") > 0
