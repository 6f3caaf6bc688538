"""Faults of whole hosts: a lost learner's host is no success; firewalls and full disks are named with their host."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster
from tests.support.hosts import Hosts
from tests.support.runs import wait_for

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def no_firewall_remains(hosts: Hosts) -> Iterator[None]:
    """The hosts are shared by all tests."""
    yield
    for host in hosts:
        host.firewall(closed=False)


def learners(cluster: Cluster, hosts: Hosts) -> str:
    """A CSV with two learners on two hosts, and two actors on a third."""
    rows = [cluster.row("learner", hosts[0]), cluster.row("learner", hosts[1])]
    return cluster.csv([*rows, cluster.row("actor", hosts[2], num_actors=2)])


@pytest.mark.slow
def test_a_lost_learner_host_is_no_success_and_comes_back(cluster: Cluster, hosts: Hosts) -> None:
    cluster.call("up", learners(cluster, hosts), "--restart_seconds=0.5")
    cluster.until("running")
    hosts[1].kill_all()
    log = cluster.folder_on(hosts[0]) / "logs/learners.log"
    ended = r"ended with code (0, but training is not over|255)"  # mpirun notices its daemon or its ssh first
    lost = rf"{ended}; restarting it in 0 s \(restart 1 of 10\): mpirun lost the host"
    wait_for(lambda: re.search(lost, log.read_text()), 30, log.read_text)
    output = cluster.call("status", code=1, COLUMNS="240")
    assert " waiting " in output and " done " not in output
    hosts[1].start_sshd()
    hosts[1].wait_for_sshd()
    cluster.until({"learner-0": "running", "learner-1": "running", "actor-0": "running"}, 90)
    (cluster.logdir / "end").write_text("bad shape")
    wait_for(lambda: "RuntimeError: bad shape" in cluster.call("status", code=1, COLUMNS="300"), 30, log.read_text)
    (cluster.logdir / "end").write_text("over")
    cluster.until({"learner-0": "done", "learner-1": "done"}, 90)
    cluster.call("down")
    assert cluster.left() == {}


def test_check_names_who_cannot_reach_whom(cluster: Cluster, hosts: Hosts) -> None:
    rows = learners(cluster, hosts)
    keys = [(host.home / ".ssh/authorized_keys").read_text() for host in hosts]
    started = time.monotonic()
    cluster.call("check", rows)
    open_seconds = time.monotonic() - started
    hosts[1].firewall(closed=True)
    started = time.monotonic()
    output = cluster.call("check", rows, "--channel=tls", "--connect_seconds=3", code=1, COLUMNS="100")
    print(f"check: {open_seconds:.1f} s, {time.monotonic() - started:.1f} s with a firewall")
    at = f"{hosts[1].ip}:8001: no answer within 3 s: a firewall?"
    assert f"{hosts[2].ip}: network: cannot reach learner 1 at {at}" in output
    assert f"{hosts[0].ip}: network: cannot reach learner 1, as MPI does, at {hosts[1].ip}, any port" in output
    assert f"{hosts[1].ip}: network" in output, "the answers to what it sends do not pass either"
    hosts[1].firewall(closed=False)
    (hosts[1].home / ".ssh").rename(hosts[1].home / "ssh")  # as if its sshd read another AuthorizedKeysFile
    try:
        second = cluster.row("learner", hosts[1], ssh_key_file="", ssh_password=hosts[1].password)
        actors = cluster.row("actor", hosts[2], num_actors=2)
        rows = cluster.csv([cluster.row("learner", hosts[0]), second, actors])
        config = hosts[1].folder / "sshd_config"
        before = config.read_text()
        config.write_text(before.replace(".ssh/authorized_keys", "ssh/authorized_keys"))
        hosts[1].kill_all()
        hosts[1].start_sshd()
        hosts[1].wait_for_sshd()
        output = cluster.call("check", rows, "--mpirun=/nowhere/mpirun", code=1, COLUMNS="100")
        assert f"{hosts[0].ip}: network: ssh to {hosts[1].name}@{hosts[1].ip} fails: " in output
        assert "see AuthorizedKeysFile in its sshd_config" in output
    finally:
        hosts[1].run("rm", "-r", f"{hosts[1].home}/.ssh", check=False)
        (hosts[1].home / "ssh").rename(hosts[1].home / ".ssh")
        config.write_text(before)
        hosts[1].kill_all()
        hosts[1].start_sshd()
        hosts[1].wait_for_sshd()
    assert [(host.home / ".ssh/authorized_keys").read_text() for host in hosts] == keys
    assert cluster.left() == {}


@pytest.mark.slow
def test_a_full_disk_is_named_with_its_host(cluster: Cluster, hosts: Hosts) -> None:
    rows = cluster.csv([cluster.row("learner", hosts[0]), cluster.row("actor", hosts[1])])
    filler = hosts[1].home / "filler"
    cluster.call("up", rows)
    hosts[1].run("dd", "if=/dev/zero", f"of={filler}", "bs=64k", check=False)
    full = f"disk full: the home directory ({hosts[1].home}) has 0 MB free"
    assert f"actor-0 on {hosts[1].ip}: {full}" in cluster.call("status", code=1, COLUMNS="200")
    cluster.call("down", code=None)
    filler.unlink()
    cluster.call("down")
    hosts[1].run("dd", "if=/dev/zero", f"of={filler}", "bs=64k", check=False)
    output = cluster.call("up", rows, code=1)
    filler.unlink()
    assert f"{hosts[1].name}@{hosts[1].ip}:22: {full}" in output
    assert "started learners; " in output
    cluster.call("down")
    assert cluster.left() == {}


@pytest.mark.slow
def test_learners_behind_a_firewall_are_named_and_given_up(cluster: Cluster, hosts: Hosts) -> None:
    hosts[1].firewall(closed=True)
    flags = ("--restart_seconds=0.2", "--worker_restarts=1", "--start_seconds=8")
    cluster.call("up", learners(cluster, hosts), *flags)
    cluster.until({"learner-0": "failed", "learner-1": "failed"}, 90)
    # On a busy machine, what the first mpirun leaves can fail the second one, with another reason.
    assert f"mpirun misses learner 1 on {hosts[1].ip} after" in cluster.call("logs", "learners", "--lines=200")
    assert "2 times in a row; giving up" in cluster.call("status", code=1, COLUMNS="300")
    cluster.call("down")
    assert cluster.left() == {}
