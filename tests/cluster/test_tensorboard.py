"""tensorboard: a port of this machine leads to the real program on the learner's host, which ends with the command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.request

import pytest

from tests.support.cluster import Cluster
from tests.support.hosts import Hosts
from tests.support.runs import wait_for

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


def test_tensorboard_of_the_learners_host_is_shown_here(cluster: Cluster, hosts: Hosts) -> None:
    cluster.call("up", cluster.csv([cluster.row("learner", hosts[0]), cluster.row("actor", hosts[1])]))
    path = cluster.folder / "tensorboard.txt"
    environment = {name: value for name, value in os.environ.items() if name not in ("SSH_AUTH_SOCK", "TMUX")}
    with (
        path.open("wb") as file,
        subprocess.Popen(
            cluster.command("tensorboard", "--command_seconds=120"), stdin=subprocess.DEVNULL, stdout=file,
            stderr=file, env=environment,
        ) as process,
    ):  # fmt: skip
        try:
            wait_for(lambda: "Ctrl-C ends it" in path.read_text() or process.poll() is not None, 120, path.read_text)
            (url,) = re.findall(r"http://127\.0\.0\.1:\d+/", path.read_text())
            for _ in range(3):
                with urllib.request.urlopen(f"{url}data/environment", timeout=60) as answer:
                    assert str(cluster.logdir) in answer.read().decode()
            assert any("tensorboard" in line for line in hosts[0].processes())
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
    wait_for(lambda: not any("tensorboard" in line for line in hosts[0].processes()), 20, path.read_text)
    cluster.call("down")
    assert cluster.left() == {}
