"""Studies on hosts with a real sshd: members on the rows of a CSV, a host that is cut off, controllers that are killed.

Members are stand-ins that keep a run's promises to its folder (tests/support/stand_in_run.py), started by the real
frontend; those of the last test really train.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlma.learning.checkpoint_file import load_checkpoint
from mlma.studies.cli import main
from mlma.studies.run_files import hosts_in_use, is_watched, newest_checkpoint
from tests.support.cluster import Cluster
from tests.support.hosts import Host
from tests.support.runs import ROOT, Process, rows, wait_for
from tests.support.stand_in_run import stand_in_python
from tests.support.studies import POPULATION, check_population, events, frames, has_copies, until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def stand_ins(cluster: Cluster) -> Cluster:
    """Hosts on which experiment.py is a stand-in, without files of earlier tests."""
    for host in cluster.hosts:
        host.run("rm", "-rf", f"{host.home}/STUDY", f"{host.home}/.mlma")
    return Cluster(cluster.hosts, cluster.folder, stand_in_python(cluster.folder))


@pytest.fixture
def home() -> Iterator[Path]:
    """A home directory. Its path is short, because the paths of sockets are limited."""
    folder = Path(tempfile.mkdtemp(prefix="mlma-home-"))
    yield folder
    for socket in folder.glob(".mlma/*/*/tmux"):
        subprocess.run(["tmux", "-S", str(socket), "kill-server"], capture_output=True)
    shutil.rmtree(folder)


def write(cluster: Cluster, text: str, count: int, actors: int = 2) -> Path:
    """The file of a study in the folder of the cluster, and a CSV with a learner and actors on each host."""
    learners = [cluster.row("learner", host) for host in cluster.hosts.all[:count]]
    cluster.csv([*learners, *(cluster.row("actor", host, num_actors=actors) for host in cluster.hosts.all[:count])])
    known_hosts = cluster.hosts.known_hosts(cluster.folder / "known_hosts")
    head = f'folder = "STUDY"\nworkers_csv_path = "{cluster.folder}/workers.csv"\ncopy_seconds = 1\nlost_seconds = 5\n'
    file = cluster.folder / "study.toml"
    file.write_text(f'{head}{text}\n[cluster]\nknown_hosts = "{known_hosts}"\nconnect_seconds = 5\n')
    return file


def study(file: Path, *flags: str, **env: str) -> Process:
    """A controller that is started in the folder of the file, which is not that of this checkout."""
    command = ["env", "-C", str(file.parent), f"PYTHONPATH={ROOT}", sys.executable, "-m", "mlma.studies"]
    return Process(file.parent, "controller", "up", file.name, *flags, command=command, env=env)


def said(file: Path, run: str) -> str:
    return (file.parent / "STUDY" / "output" / f"{run}.log").read_text()


def trains_on(host: Host) -> bool:
    return any("stand_in_run.py" in line and "job_name=actor" not in line for line in host.processes())


def wait_for_no_watcher(file: Path) -> None:
    runs = list((file.parent / "STUDY" / "members").iterdir())
    wait_for(lambda: not any(map(is_watched, runs)), 60, lambda: "watchers outlive the controller")


def check_hosts(cluster: Cluster, file: Path) -> None:
    """Nothing of the study is left on hosts but logs and the files of its members."""
    assert cluster.left() == {}
    assert not any(map(hosts_in_use, (file.parent / "STUDY" / "members").iterdir()))


@pytest.mark.slow
def test_a_population_on_three_hosts_survives_a_cut_host_and_a_killed_controller(
    stand_ins: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = 6_000_000
    text = POPULATION.format(at_once=3, frames=budget, every=1_200_000)
    file = write(stand_ins, text, 3)
    cut = stand_ins.hosts[1]
    with study(file) as up:
        until(file, lambda: min(frames(file, f"0{number}") for number in range(3)) > 0, up, 120)
        assert {event["member"]: event["hosts"] for event in events(file, "started")} == {
            number: [stand_ins.hosts[number].ip] for number in range(3)
        }
        cut.cut()
        until(file, lambda: [event for event in events(file, "ended") if event["outcome"] == "lost"], up, 120)
        assert trains_on(cut), cut.processes()
        up.signal(signal.SIGKILL)
        up.wait()
    wait_for_no_watcher(file)
    # A member that had been compared just then may be giving up its place.
    assert trains_on(cut) and any(map(trains_on, (stand_ins.hosts[0], stand_ins.hosts[2]))), "runs end with it"
    assert main(["status", str(file.parent / "STUDY")]) == 0
    assert "unwatched" in capsys.readouterr().out
    cut.reconnect()
    with study(file) as up:
        until(file, lambda: has_copies(file, 2), up, 240)
        up.signal(signal.SIGKILL)  # with a copy that counts, whose former run trains on
        up.wait()
    wait_for_no_watcher(file)
    with study(file) as up:
        assert up.wait(400) == 0, up.text()
    check_population(file, budget)
    assert main(["best", str(file.parent / "STUDY")]) == 0
    assert any("already running: learners" in said(file, f"0{number}") for number in range(3))
    check_hosts(stand_ins, file)


@pytest.mark.slow
def test_a_member_whose_host_is_lost_goes_on_at_a_free_place(stand_ins: Cluster) -> None:
    file = write(stand_ins, "seeds = 2\nmember_actors = 2\n[flags]\ntotal_environment_frames = 2_000_000\n", 3)
    first = stand_ins.hosts[0]
    with study(file) as up:
        until(file, lambda: min(frames(file, "00"), frames(file, "01")) > 0, up, 120)
        first.cut()
        until(file, lambda: len([e for e in events(file, "started") if e["member"] == 0]) == 2, up, 120)
        again = events(file, "started")[-1]
        assert (again["member"], again["hosts"]) == (0, [stand_ins.hosts[2].ip])
        saved = frames(file, "00")
        until(file, lambda: frames(file, "00") > saved, up, 120)  # on the other host, from the checkpoint here
        first.reconnect()
        until(file, lambda: not trains_on(first), up, 120)  # of two runs of one member, one goes on
        assert up.wait(400) == 0, up.text()
    for run in ("00", "01"):
        path = newest_checkpoint(file.parent / "STUDY" / "members" / run)
        assert path and load_checkpoint(path)[0]["weights"].tolist() == [2000] * 3
    check_hosts(stand_ins, file)


@pytest.mark.slow
def test_members_take_turns_on_the_rows_of_one_host_and_ctrl_c_saves(stand_ins: Cluster) -> None:
    file = write(stand_ins, "seeds = 3\nrestarts = 0\n[flags]\ntotal_environment_frames = 300_000\n", 1)
    with study(file, "--sync") as up:
        until(file, lambda: frames(file, "01") > 0, up, 240)
        until(file, lambda: frames(file, "00") == 300_000, up)
        up.signal(signal.SIGINT)
        assert up.wait(120) == 130, up.text()
    assert "0 files copied to 1 host" in said(file, "01")
    *_, ended = events(file, "ended")
    assert (ended["member"], ended["outcome"]) == (1, "stopped") and ended["frames"] == frames(file, "01")
    check_hosts(stand_ins, file)
    with study(file) as up:
        assert up.wait(400) == 0, up.text()
    assert [frames(file, f"0{number}") for number in range(3)] == [300_000] * 3
    check_hosts(stand_ins, file)


@pytest.mark.slow
def test_real_members_go_on_after_a_cut_host_and_a_killed_controller(cluster: Cluster, stand_ins: Cluster) -> None:
    real = Cluster(cluster.hosts, cluster.folder, sys.executable)
    text = "seeds = 3\n[flags]\nlevel_name = 'catch'\ntotal_environment_frames = 60_000\n"
    file = write(real, text + "report_every_seconds = 1\ncheckpoint_every_seconds = 2\n", 3, actors=1)
    cut = real.hosts[2]
    with study(file) as up:
        until(file, lambda: min(frames(file, f"0{number}") for number in range(3)) > 0, up, 400)
        cut.cut()
        time.sleep(5)
        up.signal(signal.SIGKILL)
        up.wait()
    wait_for_no_watcher(file)
    reached = [frames(file, f"0{number}") for number in range(3)]
    cut.reconnect()
    with study(file) as up:
        assert up.wait(600) == 0, up.text()
    assert all(frames(file, f"0{number}") >= max(60_000, reached[number]) for number in range(3))
    for number in range(3):
        column = [row["frames"] for row in rows(file.parent / "STUDY" / "members" / f"0{number}")]
        assert len(column) > 2 and column == sorted(column), "the curve is that of two runs"
    check_hosts(real, file)


@pytest.mark.skipif(shutil.which("tmux") is None and os.environ.get("CI") != "true", reason="needs tmux")
def test_members_on_rows_of_this_machine_need_no_ssh(home: Path) -> None:
    python = stand_in_python(home)
    rows = ["job,ip,python,num_actors", *[f"learner,localhost,{python},"] * 2, f"actor,localhost,{python},4"]
    (home / "workers.csv").write_text("\n".join(rows) + "\n")
    file = home / "study.toml"
    file.write_text('folder = "STUDY"\nseeds = 2\ncopy_seconds = 1\n[flags]\ntotal_environment_frames = 60_000\n')
    with study(file, f"--workers_csv_path={home}/workers.csv", HOME=str(home), TMUX_TMPDIR=str(home)) as up:
        assert up.wait(200) == 0, f"{up.text()}\n{said(file, '00')}"
    assert [frames(file, f"0{number}") for number in range(2)] == [60_000] * 2
    assert sorted(event["place"] for event in events(file, "started")) == [0, 1]
    own = (home / "STUDY" / "members" / "01" / "cluster" / "workers.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in own] == ["job", "learner", "actor"] and own[2].split(",")[-2] == "2"
    assert not [path for path in home.glob(".mlma/**/*") if path.is_file() and path.parent.name != "logs"]
