"""Two learners on a terminal: their lines above the live table of their launcher."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlma.roles.learners_console import PART_BYTES, LastReport
from tests.support.runs import ROOT, SMALL

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_the_last_report_is_new_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    report = LastReport(path)
    assert report.new() is None, "no file yet"
    path.write_text("frames,return/mean\n100,\n200,1.5\n30")
    assert report.new() == {"frames": 200.0, "return/mean": 1.5}
    assert report.new() is None
    path.write_text("frames,return/mean,lag/mean\n100,,\n200,1.5,\n300,,2\n")  # a new column rewrites the file
    assert report.new() == {"frames": 300.0, "lag/mean": 2.0}
    assert LastReport(path).new() is None, "rows of an earlier session are not new"
    path.write_text("frames,return/mean\n" + "".join(f"{frames},0.25\n" for frames in range(50_000)))
    assert path.stat().st_size > 2 * PART_BYTES
    assert report.new() == {"frames": 49_999.0, "return/mean": 0.25}


@pytest.mark.skipif(not (Path(sys.executable).parent / "mpirun").exists(), reason="no mpirun: make install")
def test_several_learners_have_the_live_table_of_one(tmp_path: Path) -> None:
    flags = [*SMALL, "--num_learners=2", "--num_actors=1", "--total_environment_frames=2e4", f"--logdir={tmp_path}/run"]
    controller, terminal = os.openpty()
    written: list[bytes] = []

    def read() -> None:
        while True:
            try:
                written.append(os.read(controller, 65536))
            except OSError:  # the terminal is closed everywhere
                return

    reader = threading.Thread(target=read)
    with subprocess.Popen(
        [sys.executable, "experiment.py", *flags],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, env=os.environ | {"COLUMNS": "150"},
    ) as run:  # fmt: skip
        os.close(terminal)
        reader.start()
        code = run.wait(timeout=200)
    reader.join()
    os.close(controller)
    text = ESCAPES.sub("", b"".join(written).decode())
    assert code == 0, text
    assert "learner 0: " in text and "learner 1: " in text
    tables = re.findall(r"impala catch MLPAgent, 2 learners .*left\W+100\.0 %", text)
    assert tables, text
    assert re.search(r"mean return +-?\d", text) and re.search(r"all episodes +\d", text)
    assert "frames/s  return" not in text, "a line of a report, which the table shows"
