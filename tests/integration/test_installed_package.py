"""The wheel in a fresh environment: `mlma` lists levels, trains and evaluates from an empty folder.

The environment takes the packages that the wheel needs from the one of these tests, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.runs import ROOT, frames

pytestmark = pytest.mark.commands
SMALL = ["--envs_per_actor=8", "--num_actors=1", "--batch_size=8", "--unroll_length=10"]


@pytest.fixture(scope="module")
def mlma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    Path(site, "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env" / "bin" / "mlma"


def run(mlma: Path, folder: Path, *arguments: str) -> str:
    """The output of the command in `folder`, with nothing of the checkout on the import path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(mlma), *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_lists_levels_and_presets(mlma: Path, tmp_path: Path) -> None:
    assert "atari_pong" in run(mlma, tmp_path, "levels")
    assert "impala_shallow" in run(mlma, tmp_path, "presets")
    assert list(tmp_path.iterdir()) == []


def test_the_command_trains_evaluates_and_plots_in_an_empty_folder(mlma: Path, tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()  # a package of the user, which is in nobody's way
    (tmp_path / "agents" / "__init__.py").write_text("raise ImportError('of the user')\n")
    flags = ["--level_name=catch", "--total_environment_frames=800", "--logdir=run", *SMALL]
    output = run(mlma, tmp_path, "train", *flags)
    assert "ended after" in output
    assert frames(tmp_path / "run") >= 800
    assert "site-packages/mlma/checkout/experiment.py" in (tmp_path / "run" / "sessions.json").read_text()
    assert "mean " in run(mlma, tmp_path, "evaluate", "run", "--test_num_episodes=2")
    run(mlma, tmp_path, "plot", "run", "--out=curve.png")
    run(mlma, tmp_path, "report", "run")
    assert (tmp_path / "curve.png").exists() and (tmp_path / "run" / "report.html").exists()


def test_the_frontend_plans_a_run_of_the_installed_code(mlma: Path, tmp_path: Path) -> None:
    workers = f"--workers_csv_path={ROOT / 'sandbox' / 'local_workers_example.csv'}"
    planned = run(mlma, tmp_path, "cluster", "dry-run", workers, "--level_name=catch", "--logdir=run")
    assert "site-packages/mlma/checkout/experiment.py" in planned
    assert str(ROOT / "experiment.py") not in planned
    assert "usage: mlma cluster" in run(mlma, tmp_path, "cluster", "--help")


def test_a_benchmark_runs_from_the_installed_code(mlma: Path, tmp_path: Path) -> None:
    flags = ["--sizes=1e4", "--algorithms=r2d2", "--parts=replay", "--level_name=PongNoFrameskip-v4"]
    table = run(mlma, tmp_path, "bench", "replay", *flags)
    assert table.count("|") > 10
