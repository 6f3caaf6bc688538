"""Whom a run trusts: folders and files of the caller and root, nothing through links. And writing whole lines only."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mlma.cluster.state import State, load_state
from mlma.core.config import parse, save
from mlma.transport.addresses import parse_address
from mlma.utils.atomic_file import atomic_write
from mlma.utils.own_files import append_lines, check_own_folder, make_own_folder, open_own, socket_folder

STRANGER = 12345  # a user without name
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A folder of the caller."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    return folder


def message(folder: Path) -> str:
    """The one line with which the folder is refused; empty if it is not."""
    try:
        check_own_folder(folder, f"--logdir={folder}")
    except ValueError as problem:
        return str(problem)
    return ""


def test_the_caller_s_own_folders_are_accepted(run_folder: Path) -> None:
    assert message(run_folder) == message(run_folder / "not there") == ""
    run_folder.chmod(0o775)  # as umask 002 makes them
    link = run_folder.parent / "link"
    link.symlink_to(run_folder)
    (run_folder / "checkpoints").symlink_to(run_folder.parent)
    assert message(run_folder) == message(link) == ""
    run_folder.chmod(0o1777)
    assert message(run_folder) == "", "the sticky bit keeps others from replacing files"


def test_a_folder_that_everyone_can_write_to_is_refused(run_folder: Path) -> None:
    run_folder.chmod(0o777)
    line = f"--logdir={run_folder}: every user can write to it; allowed after: chmod o-w {run_folder}"
    assert message(run_folder) == line


@needs_root
def test_a_folder_of_another_user_is_refused(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(run_folder, STRANGER, STRANGER)
    assert message(run_folder) == f"--logdir={run_folder}: belongs to user {STRANGER}; must belong to root"
    monkeypatch.setenv("MLMA_TRUST_OWNERS", "1")  # a mount that says so of every file
    assert message(run_folder) == ""


@needs_root
@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_a_link_of_another_user_in_the_folder_is_refused(run_folder: Path, target: str) -> None:
    (run_folder.parent / "folder").mkdir()
    (run_folder.parent / "file").write_text("precious")
    link = run_folder / "metrics.csv"
    link.symlink_to(run_folder.parent / target)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    assert f"metrics.csv in it belongs to user {STRANGER}" in message(run_folder)
    with pytest.raises(OSError, match=r"link|File exists"):
        make_own_folder(link)


@needs_root
def test_a_link_of_another_user_on_the_way_is_refused(run_folder: Path) -> None:
    link = run_folder.parent / "link"
    link.symlink_to(run_folder)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    assert f"the link {link} belongs to user {STRANGER}" in message(link / "below")


def test_files_are_not_opened_through_links(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    link = tmp_path / "metrics.csv"
    link.symlink_to(victim)
    with pytest.raises(OSError, match="is a link, which is not followed"):
        append_lines(link, b"row\n")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"not a regular file|No such device"):
        open_own(tmp_path / "pipe", os.O_WRONLY | os.O_CREAT)
    for name in (f".metrics.csv.{os.getpid()}", "config.json"):
        (tmp_path / name).symlink_to(victim)
    for path in (link, tmp_path / "config.json"):
        with atomic_write(path) as file:
            file.write(b"new")
        assert path.read_text() == "new" and not path.is_symlink(), "the link is replaced"
    assert victim.read_text() == "precious\n"


@pytest.mark.parametrize("is_run", [False, True])
def test_a_socket_has_a_short_path_even_if_the_temporary_folder_has_a_long_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_run: bool
) -> None:
    """As on clusters, where TMPDIR is a folder of the job."""
    temporary = tmp_path / ("x" * 100) / ("mlma-run-1" if is_run else "job")
    temporary.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with socket_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/learner")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert parse_address(f"unix:{folder}/learner", token="", plaintext=False)
    assert not folder.exists() and not list(temporary.iterdir())


def test_half_a_line_is_cut_off_before_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "table"
    append_lines(path, b"one\ntwo\n")
    with path.open("ab") as file:
        file.write(b"x" * 10_000)  # a process was killed here
    append_lines(path, b"three\n")
    assert path.read_text() == "one\ntwo\nthree\n"
    path.write_text("no end")
    append_lines(path, b"one\n")
    assert path.read_text() == "one\n"


@needs_root
def test_the_frontend_executes_nothing_that_another_user_wrote(tmp_path: Path) -> None:
    state = State(tmp_path / "cluster", "id", options={"container": "touch /tmp/owned;"})
    state.save()
    assert load_state(str(tmp_path)).id == "id"
    assert state.path.stat().st_mode & 0o077 == 0
    os.chown(state.path, STRANGER, STRANGER)
    with pytest.raises(ValueError, match=f"run.json: belongs to user {STRANGER}"):
        load_state(str(tmp_path))
    os.chown(state.path, 0, 0)
    os.chown(state.folder, STRANGER, STRANGER)
    with pytest.raises(ValueError, match=f"--logdir={tmp_path}: cluster/: belongs to user {STRANGER}"):
        load_state(str(tmp_path))
    os.chown(state.folder, 0, 0)
    state.folder.chmod(0o770)
    with pytest.raises(ValueError, match=r"others can write to .*; allowed after: chmod go-w"):
        load_state(str(tmp_path))
    state.folder.chmod(0o700)
    state.folder.rename(tmp_path / "elsewhere")
    state.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="cluster is a link; must be in the logdir itself"):
        load_state(str(tmp_path))


@needs_root
def test_flags_are_not_read_from_a_file_of_another_user(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    save(parse(["--seed=7"]), path)
    assert parse([f"--config={path}"]).run.seed == 7
    os.chown(path, STRANGER, STRANGER)
    with pytest.raises(ValueError, match=f"--config={path}: belongs to user {STRANGER}; copy it and look at it first"):
        parse([f"--config={path}"])
