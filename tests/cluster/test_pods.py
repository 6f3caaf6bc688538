"""The commands in sandbox/kubernetes, unchanged but without Kubernetes: mpirun reaches learners in other pods by SSH.

A pod is a host of tests/support/hosts.py with the paths and the user of the image, and the name that the MPI operator
gives it.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cluster.test_containers import DOCKERFILE, templates
from tests.support.hosts import Host, Hosts, make_hosts, missing, root
from tests.support.runs import ROOT, Process, rows, wait_for

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(400)]
NAMES = [f"mlma-worker-{i}.mlma-worker.mlma.svc" for i in range(2)]
POD = """
for folder in /opt /home /run; do mount -t tmpfs none $folder; done
mkdir -p /opt/mlma/.venv /opt/mlma/mlma /opt/mlma/agents /opt/mlma/docker /home/mlma/.ssh
install -d -m 0777 /run/mlma
touch /opt/mlma/experiment.py
for path in experiment.py mlma agents docker; do mount --bind {root}/$path /opt/mlma/$path; done
mount --rbind {venv} /opt/mlma/.venv
cp {secret}/* /home/mlma/.ssh
chmod 0644 /home/mlma/.ssh/*
printf '%s' '{hosts}' > /etc/hosts
hostname {name}
"""


@pytest.fixture
def pods() -> Iterator[Hosts]:
    """Separate hosts, since the test changes them."""
    if reason := missing():
        pytest.skip(reason)
    with make_hosts(3) as hosts:
        prepare(hosts)
        yield hosts


def prepare(hosts: Hosts) -> None:
    """Makes the launcher and two learner pods. Keys belong to root and are readable, like those of a Secret."""
    secret = hosts.folder / "secret"
    secret.mkdir()
    root("ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", "", "-f", str(secret / "id_rsa"))
    shutil.copy(secret / "id_rsa.pub", secret / "authorized_keys")
    names = "".join(f"{pod.ip} {name} {name.split('.')[0]}\n" for pod, name in zip(hosts.all[1:], NAMES, strict=True))
    for pod, name in zip(hosts, ["mlma-launcher", *(name.split(".")[0] for name in NAMES)], strict=True):
        table = f"127.0.0.1 localhost\n{names}"
        pod.run("sh", "-ec", POD.format(root=ROOT, venv=sys.prefix, secret=secret, hosts=table, name=name))


def test_the_launcher_starts_learners_in_their_pods_and_ends_them_with_a_checkpoint(pods: Hosts) -> None:
    launcher, *workers = pods
    folder = pods.folder / "pods"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "hostfile").write_text("".join(f"{name} slots=1\n" for name in NAMES))
    user = launcher.name  # one account everywhere, as in the image

    def in_pod(pod: Host, argv: list[str], **env: str) -> list[str]:
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        variables = [f"{name}={value}" for name, value in env.items()]
        return [*pod.enter(), *as_user, "env", "HOME=/home/mlma", *variables, *argv]

    (container,) = templates()["launcher"]["spec"]["containers"]
    argv = [word.replace("$(LEVEL)", "catch").replace("$$(", "$(") for word in container["args"]]
    argv = [word.replace("/etc/mpi", str(folder)).replace("/srv/mlma", str(folder)) for word in argv]
    env = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry} | {
        "MLMA_TOKEN": "a secret of this test"
    }
    env |= dict(re.findall(r'^ENV OMPI.* (PRTE_\w+)="(.*)"$', DOCKERFILE, re.M))
    sshd = templates()["learner"]["spec"]["containers"][0]["args"]
    daemons = [subprocess.Popen(in_pod(worker, sshd), stdin=subprocess.DEVNULL) for worker in workers]
    run = Process(folder, "launcher", "--report_every_seconds=1", command=in_pod(launcher, argv, **env))
    python = ["/opt/mlma/.venv/bin/python", "/opt/mlma/experiment.py", "--job_name=actor", "--level_name=catch"]
    actors = [
        Process(
            folder,
            f"actor-{i}",
            f"--learner_host={worker.ip}:8001",
            "--task=0",
            command=in_pod(launcher, python, **env),
        )
        for i, worker in enumerate(workers)
    ]
    try:
        logdir = folder / "catch"
        wait_for(lambda: rows(logdir) and rows(logdir)[-1]["frames"] > 2e4, 200, run.text, run)
        probe = [
            "sh",
            "-c",
            "cd /opt/mlma && .venv/bin/python -m mlma.monitoring.health_check --heartbeat_folder=/run/mlma",
        ]
        health = [worker.run(*probe) for worker in workers]
        assert [line.split(": ")[:2] for line in health] == [["learner-0", "progresses"], ["learner-1", "progresses"]]
        run.signal(signal.SIGUSR1)
        assert run.wait(60) == 0, run.text()
        assert all(actor.wait(60) == 0 for actor in actors), actors[0].text()
        assert any((logdir / "checkpoints").glob("checkpoint-*.npz"))
        assert [worker.run("ls", "/run/mlma") for worker in workers] == ["", ""], "preStop waits for this"
    finally:
        for process in (run, *actors):
            process.__exit__()
        for daemon in daemons:
            daemon.kill()
            daemon.wait()
