"""Code of one's own as the guides show it: an algorithm and networks in files outside the repository, a suite that is
added to a copy of the code. Each trains.

The files, the commands and the lines are the listings in docs/guides/own_*.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import commands
from tests.support.runs import ROOT, Process, rows

REGISTRY = "mlma/envs/registry.py"
SHORT = ["--total_environment_frames=1500", "--num_actors=1", "--report_every_seconds=0.5"]
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


def in_a_fresh_folder(folder: Path, guide: str, name: str) -> list[str]:
    """Writes the only listing that is a file into the folder; returns the commands of the guide."""
    (code,) = [code for code in listings(guide) if code.startswith('"""')]
    (folder / f"{name}.py").write_text(code)
    (folder / "mlma").mkdir()
    (folder / "mlma" / ".venv").symlink_to(Path(sys.prefix))
    (folder / "mlma" / "experiment.py").symlink_to(ROOT / "experiment.py")
    return [command.text for command in commands(ROOT / "docs" / "guides" / f"{guide}.md")]


def run_in(folder: Path, command: str, *flags: str) -> str:
    """The output of a command in that folder, with these flags added."""
    done = subprocess.run(
        ["bash", "-c", f'{command} "$@"', "bash", *flags],
        cwd=folder,
        env=os.environ | {"MLMA": str(folder / "mlma")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def final_return(checkout: Path, folder: Path, *flags: str) -> float:
    """The mean return at the end of a run with this code."""
    command = [sys.executable, str(checkout / "experiment.py")]
    logdir = f"--logdir={folder}/run"
    with Process(folder, "run", *flags, "--num_actors=1", "--report_every_seconds=1", logdir, command=command) as run:
        assert run.wait(240) == 0, run.text()
    return rows(folder / "run")[-1]["return/mean"]


def test_an_algorithm_is_a_class_in_a_file_anywhere(tmp_path: Path) -> None:
    """The page, word for word, but for the length of the run; a background evaluation imports the file too."""
    train, evaluate = in_a_fresh_folder(tmp_path, "own_algorithm", "my_algorithms")
    run_in(tmp_path, train, *SHORT, "--evaluate_every=1000")
    assert rows(tmp_path / "logdir" / "a2c")[-1]["loss/policy"] != 0
    assert list((tmp_path / "logdir" / "a2c" / "evaluation").glob("*.json")), "the background evaluation"
    assert "mean" in run_in(tmp_path, evaluate, "--test_num_episodes=2")


def test_a_network_is_a_function_or_a_module_in_a_file_anywhere(tmp_path: Path) -> None:
    wide, whole, evaluate = in_a_fresh_folder(tmp_path, "own_network", "my_networks")
    run_in(tmp_path, wide, *SHORT)
    run_in(tmp_path, whole.replace("my_networks:", "./my_networks.py:"), *SHORT)
    assert "mean" in run_in(tmp_path, evaluate, "--test_num_episodes=2")


def test_a_suite_is_a_file_and_a_line(checkout: Path, tmp_path: Path) -> None:
    (suite,) = [code for code in listings("own_environment") if "def env_spec" in code]
    (line,) = [code for code in listings("own_environment") if '"room":' in code]
    add(checkout, "mlma/envs/suites/room.py", suite, REGISTRY, SUITES, line)
    assert final_return(checkout, tmp_path, "--level_name=room", "--total_environment_frames=1e5") > 0


def test_a_gymnasium_environment_is_a_file(checkout: Path, tmp_path: Path) -> None:
    (room,) = [code for code in listings("own_environment") if "gymnasium.register" in code]
    add(checkout, "my_levels.py", room)
    assert final_return(checkout, tmp_path, "--level_name=my_levels:Room-v0", "--total_environment_frames=1e5") > 0
