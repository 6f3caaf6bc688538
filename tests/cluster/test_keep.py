"""keep: hosts that come back run their workers again, and other frontends are not in its way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlma.cluster.commands.down import down
from mlma.cluster.commands.keep import Keeper
from mlma.cluster.commands.up import up
from mlma.cluster.context import Context, make_context
from mlma.cluster.frontend_lock import run_lock
from mlma.cluster.options import parse_invocation
from tests.support.cheap import cheap_python
from tests.support.cluster import Cluster
from tests.support.hosts import Host, Hosts
from tests.support.runs import gone, wait_for
from tests.support.workers_csv import FOUR_HOSTS, write_csv

pytestmark = pytest.mark.timeout(600)


@contextlib.contextmanager
def keeping(cluster: Cluster, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """The process of keep, and what it has printed so far."""
    path = cluster.folder / "keep.txt"
    environment = {name: value for name, value in os.environ.items() if name not in ("SSH_AUTH_SOCK", "TMUX")}
    command = cluster.command("keep", "--every_seconds=0.5", "--connect_seconds=3", *flags)
    with path.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=cluster.folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
        )
    try:
        yield process, path.read_text
    finally:
        process.kill()
        process.wait()


def power_cycle(host: Host, printed: Callable[[], str]) -> None:
    """Kills everything on a host; starts its sshd once keep has noticed."""
    count, began = printed().count(f"{host.ip}: "), time.monotonic()
    host.kill_all()
    wait_for(lambda: printed().count(f"{host.ip}: ") > count, 60, printed)
    print(f"named {time.monotonic() - began:.1f} s after it was killed")
    host.start_sshd()
    host.wait_for_sshd()


def workers_on(cluster: Cluster, host: Host) -> list[str]:
    """The names of the actors that have a process on a host."""
    names = set()
    for pid in cluster.processes_on(host):
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            names |= {word.decode().partition("=")[2] for word in environment if word.startswith(b"MLMA_WORKER=actor")}
    return sorted(names)


@pytest.mark.slow
def test_a_host_that_comes_back_runs_its_workers_again(cluster: Cluster, hosts: Hosts) -> None:
    cluster.call("up", cluster.csv([cluster.row("learner", hosts[0]), cluster.row("actor", hosts[1])]))
    with keeping(cluster) as (process, printed):
        power_cycle(hosts[1], printed)
        began = time.monotonic()
        wait_for(lambda: f"{hosts[1].ip}: started actor-0\n" in printed(), 60, printed)
        print(f"started {time.monotonic() - began:.1f} s after the sshd, at a load of {os.getloadavg()[0]:.0f}")
        assert workers_on(cluster, hosts[1]) == ["actor-0"]
        cluster.call("down")
        assert process.wait(60) == 0
        lines = [line.partition(" ")[2] for line in printed().splitlines()]
    assert lines[1:] == [f"{hosts[1].ip}: answers again", f"{hosts[1].ip}: started actor-0", "the run is down"]
    assert cluster.left() == {}


@pytest.mark.slow
def test_learners_that_were_given_up_start_again_when_their_host_is_back(cluster: Cluster, hosts: Hosts) -> None:
    rows = [cluster.row("learner", hosts[0]), cluster.row("learner", hosts[1]), cluster.row("actor", hosts[2])]
    cluster.call("up", cluster.csv([*rows, cluster.row("actor", hosts[2])]), "--worker_restarts=0")
    cluster.until("running")
    with keeping(cluster) as (process, printed):
        hosts[1].kill_all()
        wait_for(lambda: f"{hosts[0].ip}: learners failed: ended with code" in printed(), 60, printed)
        hosts[1].start_sshd()
        hosts[1].wait_for_sshd()
        wait_for(lambda: f"{hosts[0].ip}: started learners\n" in printed(), 60, printed)
        cluster.until("running", 90)
        power_cycle(hosts[0], printed)
        wait_for(lambda: printed().count(f"{hosts[0].ip}: started learners\n") == 2, 60, printed)
        cluster.until("running", 90)
        (cluster.logdir / "end").write_text("over")
        assert process.wait(60) == 0
        assert printed().endswith(" training is over\n")
    cluster.call("down")
    assert cluster.left() == {}


@pytest.mark.slow
def test_actors_of_a_silent_host_move_and_return_without_running_twice(cluster: Cluster, hosts: Hosts) -> None:
    rows = [cluster.row("learner", hosts[0]), cluster.row("actor", hosts[1], num_actors=2)]
    cluster.call("up", cluster.csv([*rows, *(cluster.row("actor", host) for host in hosts.all[2:])]))
    cluster.until("running")
    record = cluster.folder_on(hosts[0]) / "workers/learners.json"
    learners = json.loads(record.read_text())["child"]
    with keeping(cluster, "--move_actors_after=2") as (process, printed):
        wait_for(lambda: workers_on(cluster, hosts[1]) == ["actor-0", "actor-1"], 20, printed)
        hosts[1].cut()
        wait_for(lambda: f"{hosts[2].ip}: started actor-0\n" in printed(), 60, printed)
        wait_for(lambda: f"{hosts[3].ip}: started actor-1\n" in printed(), 60, printed)
        assert f"actors of {hosts[1].ip} moved to other hosts" in cluster.call("status", code=None, COLUMNS="200")
        wait_for(lambda: "reached the learner" in cluster.call("logs", "actor-1", code=None), 30, printed)
        assert workers_on(cluster, hosts[1]) == ["actor-0", "actor-1"], "they are cut off, not ended"
        hosts[1].reconnect()
        wait_for(lambda: f"{hosts[1].ip}: started actor-0, actor-1\n" in printed(), 60, printed)
        assert printed().index(f"{hosts[2].ip}: ended actor-0") < printed().index(f"{hosts[1].ip}: started actor-0")
        cluster.until("running")
        assert [workers_on(cluster, host) for host in hosts] == [[], ["actor-0", "actor-1"], ["actor-2"], ["actor-3"]]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert json.loads(record.read_text())["child"] == learners, "learners go on"
    assert "still running with their earlier flags" not in cluster.call("up")
    cluster.call("down")
    assert cluster.left() == {}


@pytest.mark.slow
def test_other_frontends_change_the_run_meanwhile(cluster: Cluster, hosts: Hosts) -> None:
    rows = [cluster.row("learner", hosts[0]), cluster.row("actor", hosts[1]), cluster.row("actor", hosts[2])]
    cluster.call("up", cluster.csv(rows))
    with keeping(cluster) as (process, printed):
        with run_lock("up", str(cluster.logdir)):
            power_cycle(hosts[1], printed)
            wait_for(lambda: "answers again" in printed(), 30, printed)
            time.sleep(3)
            assert workers_on(cluster, hosts[1]) == []
        wait_for(lambda: f"{hosts[1].ip}: started actor-0\n" in printed(), 30, printed)
        cluster.call("scale", "4")
        power_cycle(hosts[1], printed)
        wait_for(lambda: f"{hosts[1].ip}: started actor-0, actor-2\n" in printed(), 30, printed)
        hosts[2].cut()
        cluster.call("down", code=1)
        assert process.wait(40) == 0, "a `down` that misses a host is the end, too"
        assert printed().endswith(" the run is down\n")
    assert hosts[1].processes() == []
    hosts[2].reconnect()
    cluster.call("down")
    assert cluster.left() == {}


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    """Of a run on four hosts that is up, none of which is contacted."""
    flags = [f"--logdir={tmp_path}/run", f"--known_hosts={tmp_path}/known"]
    context = make_context(parse_invocation(["up", f"--workers_csv_path={write_csv(tmp_path, FOUR_HOSTS)}", *flags]))
    for host in context.plan.hosts.values():
        context.remember(host)
    return Keeper(make_context(parse_invocation(["keep", *flags])))


def answer(keeper: Keeper, key: str, state: str, boot: str = "b") -> dict[str, Any]:
    names = [process.name for process in keeper.context.plan.processes_on(key)]
    return {"boot": "b", "records": {name: {"state": state, "boot": boot} for name in names}}


def run_here(home: Path, command: str) -> Context:
    """A command on a run with one learner and one actor on this machine."""
    rows = ["job,ip,tf_port,python", *(f"{job},localhost,,{cheap_python(home)}" for job in ("learner", "actor"))]
    (home / "workers.csv").write_text("\n".join(rows) + "\n")
    csv = [f"--workers_csv_path={home}/workers.csv"] * (command == "up")
    return make_context(parse_invocation([command, f"--logdir={home}/run", *csv]))


def test_workers_of_a_host_that_was_rebooted_run_again_until_training_is_over(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMUX_TMPDIR", str(home))
    monkeypatch.delenv("TMUX", raising=False)
    assert up(run_here(home, "up")) == 0
    keeper = Keeper(run_here(home, "keep"))
    (path,) = home.glob(".mlma/run-*/localhost/workers/actor-0.json")
    record = json.loads(path.read_text())
    os.kill(record["pid"], signal.SIGKILL)
    wait_for(lambda: gone([record["pid"]]), 10, path.read_text)
    path.write_text(json.dumps(record | {"boot": "an earlier one"}))
    capsys.readouterr()
    lines: list[str] = []

    def look() -> str:
        end = keeper.look()
        lines.extend(line.partition(" ")[2] for line in capsys.readouterr().out.splitlines())
        return end

    wait_for(lambda: look() or lines, 60, lambda: "nothing was started")
    assert lines == ["localhost: started actor-0"]
    assert json.loads(path.read_text())["pid"] != record["pid"]
    (home / "run/end").write_text("over")
    wait_for(look, 60, lambda: str(lines))
    assert look() == "training is over"
    assert lines == ["localhost: started actor-0"]
    assert down(run_here(home, "down")) == 0
    keeper = Keeper(keeper.context)
    assert keeper.look() == "the run is down"


@pytest.mark.parametrize(
    ("state", "boot", "due"),
    [
        ("gone", "b", True), ("stopped", "b", False), ("failed", "b", False), ("running", "b", False),
        ("stopped", "earlier", True), ("failed", "earlier", True),
    ],
)  # fmt: skip
def test_what_was_stopped_on_purpose_stays_so_unless_its_host_was_rebooted(
    keeper: Keeper, state: str, boot: str, due: bool
) -> None:
    key = keeper.context.plan.processes[-1].host
    answers = {host: answer(keeper, host, "running") for host in keeper.context.plan.hosts}
    answers[key] = answer(keeper, key, state, boot)
    keeper._note_hosts(answers)
    assert keeper._due_hosts(answers) == [key] * due


def test_keep_needs_a_run_that_is_up(tmp_path: Path) -> None:
    write_csv(tmp_path, FOUR_HOSTS)
    flags = [f"--logdir={tmp_path}/run"]
    make_context(parse_invocation(["up", f"--workers_csv_path={tmp_path}/workers.csv", *flags])).state.save()
    with pytest.raises(ValueError, match="the run there is not up; `up` starts it"):
        make_context(parse_invocation(["keep", *flags]))
    with pytest.raises(ValueError, match="--move_actors_after: not with up; allowed: keep"):
        parse_invocation(["up", "--move_actors_after=3"])
