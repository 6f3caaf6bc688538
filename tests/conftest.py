"""Environment variables to set before TensorFlow is imported, and fixtures: simulated hosts, a cluster, the log."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.hosts import Hosts, make_hosts, missing
from tests.support.lab import STAND_IN

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.pop("PYTHONUNBUFFERED", None)  # it would hide missing flushes
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # on a GPU, sums are not reproducible


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes (`make test`), all but unit tests run in one of them, one by one."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Scheduler(LoadScopeScheduling):
        """Unit tests of one file run in one process."""

        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0] if nodeid.startswith("tests/unit/") else "those that start processes"

    return Scheduler(config, log)


@pytest.fixture(scope="session", autouse=True)
def list_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with the list of runs that `up` has started: one of the tests, not that of the user."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Four simulated hosts. Where they cannot be created, tests are skipped; in continuous integration they fail."""
    reason = missing()
    if reason and os.environ.get("CI") != "true":
        pytest.skip(reason)
    assert not reason, reason
    with make_hosts(4) as simulated:
        yield simulated


@pytest.fixture
def cluster(hosts: Hosts) -> Iterator[Cluster]:
    """A run with workers that cost nothing; nothing of it remains on the hosts afterwards."""
    yield Cluster.cheap(hosts, Path(tempfile.mkdtemp(prefix="run-", dir=hosts.folder)))
    for host in hosts:
        host.reconnect()
        for pid in host.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home directory for runs on this machine. Its path is short, because the paths of sockets are limited."""
    folder = Path(tempfile.mkdtemp(prefix="mlma-home-"))
    yield folder
    for socket in (*folder.glob(".mlma/*/*/tmux"), *folder.glob("tmux-*/*")):
        subprocess.run(["tmux", "-S", str(socket), "kill-server"], capture_output=True)
    shutil.rmtree(folder)


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What has been logged so far."""
    caplog.set_level(logging.INFO, "mlma")
    return lambda: caplog.messages


@pytest.fixture
def lab_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the fake module importable; returns the file to which it logs its calls."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.delitem(sys.modules, "deepmind_lab", raising=False)
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / "log"
