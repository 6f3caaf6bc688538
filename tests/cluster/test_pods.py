"""The commands of sandbox/kubernetes as they stand, without Kubernetes: mpirun reaches learners in other pods by ssh.

Pods are hosts of tests/support/hosts.py with the image's paths and its user, under the names that the MPI operator gives them.
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
    """Hosts of their own, since they will not be the same afterwards."""
    if reason := missing():
        pytest.skip(reason)
    with make_hosts(3) as hosts:
        furnish(hosts)
        yield hosts


def furnish(hosts: Hosts) -> None:
    """The launcher and two learners' pods. Keys are root's and readable, as those of a Secret are."""
    secret = hosts.folder / "secret"
    secret.mkdir()
    root("ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", "", "-f", str(secret / "id_rsa"))
    shutil.copy(secret / "id_rsa.pub", secret / "authorized_keys")
    known = "".join(f"{pod.ip} {name} {name.split('.')[0]}\n" for pod, name in zip(hosts.all[1:], NAMES, strict=True))
    for pod, name in zip(hosts, ["mlma-launcher", *(name.split(".")[0] for name in NAMES)], strict=True):
        table = f"127.0.0.1 localhost\n{known}"
        pod.run("sh", "-ec", POD.format(root=ROOT, venv=sys.prefix, secret=secret, hosts=table, name=name))


def test_the_launcher_starts_learners_in_their_pods_and_ends_them_with_a_checkpoint(pods: Hosts) -> None:
    launcher, *workers = pods
    folder = pods.folder / "pods"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "hostfile").write_text("".join(f"{name} slots=1\n" for name in NAMES))
    user = launcher.name  # one account everywhere, as in the image

    def inside(pod: Host, words: list[str], **env: str) -> list[str]:
        who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return [
            *pod.enter(),
            *who,
            "env",
            "HOME=/home/mlma",
            *(f"{name}={value}" for name, value in env.items()),
            *words,
        ]

    (container,) = templates()["launcher"]["spec"]["containers"]
    words = [word.replace("$(LEVEL)", "catch").replace("$$(", "$(") for word in container["args"]]
    words = [word.replace("/etc/mpi", str(folder)).replace("/srv/mlma", str(folder)) for word in words]
    env = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry} | {"MLMA_TOKEN": "secret"}
    env |= dict(re.findall(r'^ENV OMPI.* (PRTE_\w+)="(.*)"$', DOCKERFILE, re.M))
    sshd = templates()["learner"]["spec"]["containers"][0]["args"]
    daemons = [subprocess.Popen(inside(worker, sshd), stdin=subprocess.DEVNULL) for worker in workers]
    run = Process(folder, "launcher", "--report_every_seconds=1", command=inside(launcher, words, **env))
    python = ["/opt/mlma/.venv/bin/python", "/opt/mlma/experiment.py", "--job_name=actor", "--level_name=catch"]
    actors = [
        Process(
            folder,
            f"actor-{i}",
            f"--learner_host={worker.ip}:8001",
            "--task=0",
            command=inside(launcher, python, **env),
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
        said = [worker.run(*probe) for worker in workers]
        assert [line.split(": ")[:2] for line in said] == [["learner-0", "progresses"], ["learner-1", "progresses"]]
        run.signal(signal.SIGUSR1)
        assert run.wait(60) == 0, run.text()
        assert all(actor.wait(60) == 0 for actor in actors), actors[0].text()
        assert any((logdir / "checkpoints").glob("checkpoint-*.npz"))
        assert [worker.run("ls", "/run/mlma") for worker in workers] == ["", ""], "what preStop waits for"
    finally:
        for process in (run, *actors):
            process.__exit__()
        for daemon in daemons:
            daemon.kill()
            daemon.wait()
