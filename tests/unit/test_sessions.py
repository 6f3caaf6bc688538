"""What a run records about itself: the command, the commit and the machine of each session, and its CPU time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlma.monitoring.cpu_usage import CoreSeconds
from mlma.monitoring.run_log import MAX_SESSIONS, SessionRecord
from mlma.utils.provenance import git_commit
from tests.support.runs import SMALL, Process, rows
from tests.support.samples import Rows, make_metrics

BUSY = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass"
# A process whose own child is busy: the child is a grandchild of the test.
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY.format(0.6)!r}])"


def sessions(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text()))


def test_a_session_names_command_commit_and_machine_and_then_its_end(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    record = SessionRecord(path, 0)
    record.write()
    (session,) = sessions(path)
    assert session["command"].split()[0] == sys.orig_argv[0]
    assert session["commit"] == git_commit()
    assert session["cores"] >= 1
    assert (session["ended"], session["finished"]) == (None, False)
    record.close(finished=True)
    (session,) = sessions(path)
    assert session["started"] <= session["ended"]
    assert session["finished"]


def test_a_resumed_run_keeps_its_earlier_sessions_and_a_new_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    for frames in (0, 1000, 2000):
        SessionRecord(path, frames).write()
    assert [session["frames"] for session in sessions(path)] == [0, 1000, 2000]
    SessionRecord(path, 0).write()
    assert [session["frames"] for session in sessions(path)] == [0]


@pytest.mark.parametrize("damage", ["", "{", '{"a": 1}'])
def test_a_damaged_file_is_replaced(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "sessions.json"
    path.write_text(damage)
    SessionRecord(path, 1000).write()
    assert len(sessions(path)) == 1


def test_a_run_that_restarts_forever_does_not_fill_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    path.write_text(json.dumps([{"frames": i} for i in range(1000)]))
    SessionRecord(path, 5).write()
    assert len(sessions(path)) == MAX_SESSIONS
    assert sessions(path)[0]["frames"] == 1000 - MAX_SESSIONS + 1


def test_a_full_disk_at_the_start_is_tried_again_at_each_report(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "sessions.json"
    record = SessionRecord(path, 0)
    with pytest.raises(OSError, match="missing"):
        record.write()
    path.parent.mkdir()
    record.on_report({})
    written = path.stat().st_mtime_ns
    record.on_report({})
    assert path.stat().st_mtime_ns == written, "once is enough"


def test_core_seconds_are_those_of_the_process_and_its_descendants_dead_or_alive() -> None:
    core_seconds = CoreSeconds()
    before = core_seconds()
    with subprocess.Popen([sys.executable, "-c", PARENT]) as child:
        while child.poll() is None:
            time.sleep(0.05)
            alive = core_seconds()
    after = core_seconds()
    assert alive - before > 0.3, "a busy grandchild counts while it runs"
    assert after - before > 0.55, "and after its end"
    assert after - before < 3


def test_totals_are_summed_over_all_learners() -> None:
    rows_ = Rows()

    def gather(data: bytes) -> list[bytes]:
        other = json.loads(data)
        other["totals"] = {"core_seconds": 5.0}
        return [data, json.dumps(other).encode()]

    metrics = make_metrics(rows_, gather=gather)
    metrics.add_totals({"core_seconds": lambda: 2.5})
    metrics.report(1, 10, lambda: 0)
    assert rows_[0]["core_seconds"] == 7.5


def test_a_run_records_its_sessions_and_their_core_seconds(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    for frames in (20_000, 40_000):
        flags = [*SMALL, "--num_actors=1", f"--total_environment_frames={frames}", f"--logdir={logdir}"]
        with Process(tmp_path, f"run-{frames}", *flags) as run:
            assert run.wait(120) == 0, run.text()
    first, second = sessions(logdir / "sessions.json")
    assert f"--total_environment_frames=20000 --logdir={logdir}" in first["command"]
    assert (first["frames"], first["finished"], second["finished"]) == (0, True, True)
    assert second["frames"] >= 20_000
    table = rows(logdir)
    spent = [row["core_seconds"] for row in table]
    assert all(value > 0 for value in spent)
    restarts = [i for i in range(1, len(spent)) if spent[i] < spent[i - 1]]
    assert len(restarts) == 1, "each session counts its own"
    assert table[restarts[0]]["frames"] >= 20_000
