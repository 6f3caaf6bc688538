"""A run from files of flags that is resumed with others: what it says, what it keeps, and that its hints work."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from mlma.core.config import parse
from tests.support.runs import ROOT, SMALL, Process


def commands(lines: list[str]) -> list[str]:
    """The commands at the end of lines of the log."""
    marks = ("evaluate it: ", "draw its curve: ", "write its report page: ")
    return [line.partition(mark)[2] for line in lines for mark in marks if mark in line]


def test_a_resumed_run_lists_what_changed_and_says_what_to_do_next(tmp_path: Path) -> None:
    logdir, file = tmp_path / "run", tmp_path / "mine.toml"
    file.write_text('level_name = "catch"\nnum_actors = 1\ntotal_environment_frames = 800\nbatch_size = 4\n')
    argv = [*SMALL[1:2], *SMALL[3:], f"--config={file}", f"--logdir={logdir}"]
    with Process(tmp_path, "first", *argv) as run:
        assert run.wait(120) == 0, run.text()
    text = run.text()
    assert "impala with preset fast: MLPAgent with " in text
    assert "800 frames to train; how long" in text
    assert "flags changed" not in text
    more = tmp_path / "more.yaml"
    more.write_text("total_environment_frames: 2e3\nlearning_rate: 1e-4\n")
    with Process(tmp_path, "second", *argv, f"--config={more}") as run:
        assert run.wait(120) == 0, run.text()
    (changed,) = (line for line in run.text().splitlines() if "flags changed at " in line)
    assert "--total_environment_frames=2000 (was 800)" in changed
    assert "--learning_rate=0.0001 (was " in changed
    assert changed.count("(was ") == 2
    *_, session = json.loads((logdir / "sessions.json").read_text())
    assert session["changed"].keys() == {"total_environment_frames", "learning_rate"}
    (former,) = logdir.glob("config-until-*.json")
    assert parse([f"--config={former}"]).run.total_environment_frames == 800
    assert parse([f"--config={logdir}/config.json"]).learner.batch_size == 4
    _, curve, report = commands(run.text().splitlines())
    assert curve.endswith("returns.png")
    done = subprocess.run(report, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (logdir / "report.html").exists()
    with Process(tmp_path, "again", *argv, f"--config={more}") as run:
        assert run.wait(120) == 0, run.text()
    assert "already complete: " in run.text()
    assert "flags changed" not in run.text()
    assert "; no actors" in run.text()
