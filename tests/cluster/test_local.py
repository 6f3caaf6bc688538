"""Rows of this machine need no SSH: a run from `up` to `down` in the local tmux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cheap import cheap_python
from tests.support.runs import ROOT, free_port, wait_for

pytestmark = pytest.mark.skipif(
    shutil.which("tmux") is None and os.environ.get("CI") != "true", reason="needs tmux: apt-get install tmux"
)


def call(home: Path, *arguments: str, code: int = 0) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "TMUX"} | {"HOME": str(home), "TMUX_TMPDIR": str(home)}
    command = [sys.executable, str(ROOT / "run_experiment_mm_raw.py"), *arguments, f"--logdir={home}/my run"]
    result = subprocess.run(
        command,
        cwd=home,
        env=environment | {"MLMA_TOKEN": "not-this", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == code, f"{arguments}: {result.stdout}{result.stderr}"
    return result.stdout + result.stderr


def tmux(socket: Path, *arguments: str) -> str:
    return subprocess.run(["tmux", "-S", str(socket), *arguments], capture_output=True, text=True).stdout


def windows(socket: Path, session: str) -> list[str]:
    return tmux(socket, "list-windows", "-t", f"={session}", "-F", "#{window_name}").split()


def screen(home: Path, window: str) -> str:
    (socket,) = home.glob("tmux-*/mlma-my-run-*")
    return tmux(socket, "capture-pane", "-p", "-t", f"=my-run-screens:{window}")


def test_a_run_on_this_machine_starts_and_ends_without_ssh(home: Path) -> None:
    rows = ["job,ip,tf_port,python,num_actors", f"learner,localhost,{free_port()},{cheap_python(home)},"]
    rows.append(f"actor,localhost,,{home}/cheap-python,2")
    (home / "workers.csv").write_text("\n".join(rows) + "\n")
    (home / "my run").mkdir()
    assert "started learners, actor-0, actor-1; 1 host" in call(home, "--workers_csv_path=workers.csv")
    (folder,) = home.glob(".mlma/my-run-*/localhost")
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    wait_for(lambda: "reached the learner" in call(home, "logs", "actor-1"), 30, lambda: call(home, "logs"))
    assert call(home, "status").count(" localhost running ") == 3
    assert "already running: learners, actor-0, actor-1" in call(home)
    assert windows(folder / "tmux", "my-run") == ["learners", "actor-0", "actor-1"]
    for _ in range(2):  # the second call opens nothing
        assert f"tmux -L mlma-{folder.parent.name} attach" in call(home, "screens")
    assert windows(home / f"tmux-{os.getuid()}/mlma-{folder.parent.name}", "my-run-screens") == ["status", "localhost"]
    wait_for(lambda: "actor-1" in screen(home, "status"), 30, lambda: screen(home, "status"))
    wait_for(lambda: "[my-run]" in screen(home, "localhost"), 30, lambda: screen(home, "localhost"))
    assert "started with other flags: --batch_size=4 (was 0); `down` ends it" in call(home, "--batch_size=4", code=2)
    assert "1 host left clean" in call(home, "down")
    assert "is not up" in call(home, "screens", code=2)
    assert (home / "my run/saved-0").exists()
    left = {str(path.relative_to(home)) for path in home.rglob("*") if ".mlma" in path.parts or "tmux" in path.name}
    kept = {str(path.relative_to(home)) for path in (folder, folder.parent, folder.parents[1])}
    assert {path for path in left if "/logs" not in path} <= kept, left


def test_workers_in_images_are_started_by_the_engine_and_find_the_run(home: Path) -> None:
    """The engine of this test starts them without a container. What real engines get: docs/guides/deploy.md."""
    (home / "image/.venv/bin").mkdir(parents=True)
    Path(cheap_python(home)).rename(home / "image/.venv/bin/python")
    (home / "engine").write_text('#!/bin/sh\nimage=$2; shift 2; echo "$image of $HOME"; exec "$@"\n')
    (home / "engine").chmod(0o755)
    rows = ["job,ip,image,folder", *(f"{job},localhost,lab/mlma:1,{home}/image" for job in ("learner", "actor"))]
    (home / "workers.csv").write_text("\n".join(rows) + "\n")
    (home / "my run").mkdir()
    assert "no-such-engine is not installed" in call(
        home, "--workers_csv_path=workers.csv", "--container=no-such-engine run", code=1
    )
    call(home, "down")
    call(home, "--workers_csv_path=workers.csv", "--container=$HOME/engine run")
    wait_for(lambda: "reached the learner" in call(home, "logs", "actor-0"), 30, lambda: call(home, "logs"))
    assert f"lab/mlma:1 of {home}" in call(home, "logs", "actor-0")
    output = call(home, "check")
    assert " image " in output and "no problems" in output
    assert "1 host left clean" in call(home, "down")
