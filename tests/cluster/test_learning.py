"""Real training on four hosts: two learners under mpirun on two hosts and six actors on three train on the corridor."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.support.cluster import Cluster
from tests.support.hosts import Hosts
from tests.support.runs import rows, wait_for

pytestmark = pytest.mark.timeout(900)
BEST = 2 - 2**0.5  # p(right) of the best stochastic policy, .586
# The preset with half of its frames.
FLAGS = ["--level_name=corridor", "--total_environment_frames=1e6", "--report_every_seconds=1"]


@pytest.fixture
def real(cluster: Cluster) -> Cluster:
    """A run with real workers."""
    return Cluster(cluster.hosts, cluster.folder, sys.executable)


@pytest.mark.parametrize("channel", [pytest.param("ssh", marks=pytest.mark.slow), "tls"])
def test_two_learners_and_six_actors_on_four_hosts_leave_the_corridor(
    real: Cluster, hosts: Hosts, channel: str
) -> None:
    output = real.call("up", real.two_learners(), *FLAGS, f"--channel={channel}")
    assert "started learners, " in output
    wait_for(lambda: rows(real.logdir), 240, lambda: real.call("logs", code=None))
    for host in hosts:
        ports = [line.split()[3] for line in host.run("ss", "-Hltn").splitlines()]
        expected = [f"{host.ip}:8001"] if channel == "tls" and host in (hosts[0], hosts[1]) else []
        assert [port for port in ports if port.endswith((":8001", ":8002"))] == expected, ports
    wait_for(
        lambda: "learner-0 " in (text := real.call("status", code=None)) and text.count(" done ") >= 2,
        600,
        lambda: real.call("logs", code=None),
    )
    real.until("done", 60)
    table = rows(real.logdir)
    assert table[-1]["frames"] >= 0.99e6
    p_right = [row["policy/p_action_1"] for row in table if row["frames"] > 0.8 * table[-1]["frames"]]
    print(f"p(right) {np.nanmean(p_right):.4f} after {table[-1]['seconds']:.0f} s, {table[-1]['frames']:.0f} frames")
    assert abs(np.nanmean(p_right) - BEST) < 0.03
    assert "4 hosts left clean" in real.call("down")
    assert real.left() == {}
