"""Before TensorFlow is imported: fewer messages, and no GPU, on which a sum is not the same twice. Hosts for those who ask."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.hosts import Hosts, make_hosts, missing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.pop("PYTHONUNBUFFERED", None)  # who runs this has no such thing set; with it, lines that are not flushed look it
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Four hosts; where they cannot be built tests are skipped, but for continuous integration, where they fail."""
    reason = missing()
    if reason and os.environ.get("CI") != "true":
        pytest.skip(reason)
    assert not reason, reason
    with make_hosts(4) as made:
        yield made


@pytest.fixture
def cluster(hosts: Hosts) -> Iterator[Cluster]:
    """A run with workers that cost nothing; nothing of it is left on the hosts afterwards."""
    yield Cluster.cheap(hosts, Path(tempfile.mkdtemp(prefix="run-", dir=hosts.folder)))
    for host in hosts:
        host.mend()
        for pid in host.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What has been logged so far."""
    caplog.set_level(logging.INFO, "mlma")
    return lambda: caplog.messages
