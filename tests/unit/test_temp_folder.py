"""The folder for temporary files of a process and its children: used by all of them, and gone however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlma.utils.own_files import socket_folder
from tests.support.runs import ROOT, wait_for

PROGRAM = """
import os, subprocess, sys, tempfile
from mlma.envs.vector import temp_folder
temp_folder.use_for_this_process()
temp_folder.use_for_this_process()
print(tempfile.mkstemp()[1], os.environ["TMPDIR"], temp_folder.acquire(), flush=True)
if len(sys.argv) > 1:
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
else:
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_killed_process_and_its_child(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", PROGRAM, PROGRAM]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        files = [Path(word) for line in (process.stdout.readline(), process.stdout.readline()) for word in line.split()]
        (folder,) = tmp_path.iterdir()
        assert files[1] == files[4] == folder, "the child has its parent's"
        assert {file.parent for file in (files[0], files[2], files[3])} == {folder}
        assert all(file.exists() for file in files)
        process.send_signal(number)
        assert process.wait() == -number
        wait_for(lambda: not list(tmp_path.iterdir()), 10, lambda: str(list(tmp_path.rglob("*"))))


def test_sockets_in_it_have_short_paths_and_modes_for_this_user_only(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "mlma-run-abcdefgh"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with socket_folder() as first, socket_folder() as second:
        assert {first, second} == {folder / "0", folder / "1"}
        assert (first.stat().st_mode & 0o777, second.stat().st_mode & 0o777) == (0o700, 0o700)
    assert list(folder.iterdir()) == []


def test_a_process_goes_on_without_a_folder_where_none_can_be_made(tmp_path: Path) -> None:
    program = "from mlma.envs.vector import temp_folder as t; t.use_for_this_process(); print(t._own)"
    command = [sys.executable, "-c", f"import tempfile; tempfile.tempdir = '{tmp_path}/none'; {program}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
