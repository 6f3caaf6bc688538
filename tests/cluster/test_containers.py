"""What docker/, sandbox/kubernetes/ and sandbox/slurm/ start is what workers understand, and fits together.

Their schemas: `make manifests`. That it trains: below for compose, tests/cluster/test_slurm.py, docker/build_without_daemon.sh.
"""

from __future__ import annotations

import collections
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlma.core.config import Config, parse
from mlma.monitoring.health_check import parse_flags
from tests.support.hosts import missing
from tests.support.runs import ROOT, Process, rows, wait_for

DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
HEALTH = ["-m", "mlma.monitoring.health_check"]


def compose(**variables: str) -> dict[str, Any]:
    """The services, variables put in as compose does."""

    def value(match: re.Match[str]) -> str:
        name, sign, rest = match.groups()
        return variables[name] if name in variables or sign != "-" else str(rest)

    text = re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", value, (ROOT / "docker/compose.yaml").read_text())
    return dict(yaml.safe_load(text)["services"])


def flags_of(words: list[str]) -> Config:
    """What experiment.py makes of the words that follow it."""
    (at,) = [i for i, word in enumerate(words) if word.endswith("experiment.py")]
    return parse(words[at + 1 :])


def is_a_probe(words: list[str]) -> bool:
    line = " ".join(words)
    asked = shlex.split(line[line.index("mlma.monitoring.health_check") :])[1:]
    return bool(parse_flags(asked)[0].distributed.heartbeat_folder == "/run/mlma")


def together(learners: list[tuple[str, int]], actor_hosts: int, actors: list[Config]) -> None:
    """Each learner, known by where it listens, has as many actors as it expects, numbered from 0."""
    tasks = collections.defaultdict(list)
    for actor in actors:
        assert actor.run.job_name == "actor"
        tasks[actor.distributed.learner_host].append(actor.run.task)
    assert {place: sorted(found) for place, found in tasks.items()} == {
        f"{host}:{port}": list(range(actor_hosts)) for host, port in learners
    }


def test_compose_starts_learners_and_the_actors_that_they_expect() -> None:
    services = compose(MLMA_TOKEN="secret")
    learner = flags_of(services.pop("learners")["command"])
    assert (learner.distributed.num_learners, learner.distributed.learner_host, learner.run.task) == (
        2,
        "0.0.0.0:8001",
        0,
    )
    actors = [flags_of(service["command"]) for service in services.values()]
    together([("learners", 8001), ("learners", 8002)], len(learner.distributed.actor_hosts.split(",")), actors)
    assert {actor.environment.level_name for actor in actors} == {learner.environment.level_name}
    for service in compose(MLMA_TOKEN="secret").values():
        assert f" AS {service['build']['target']}\n" in DOCKERFILE
        assert is_a_probe(service["healthcheck"]["test"])


def documents() -> list[dict[str, Any]]:
    paths = sorted((ROOT / "sandbox/kubernetes").glob("*.yaml"))
    return [document for path in paths for document in yaml.safe_load_all(path.read_text())]


def kinds(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] == kind]


def templates() -> dict[str, dict[str, Any]]:
    """Component -> pod template."""
    (job,), (actors,) = kinds("MPIJob"), kinds("Job")
    found = [replica["template"] for replica in job["spec"]["mpiReplicaSpecs"].values()] + [actors["spec"]["template"]]
    return {template["metadata"]["labels"]["app.kubernetes.io/component"]: template for template in found}


def test_kubernetes_starts_learners_and_the_actors_that_they_expect() -> None:
    (kustomization,), (job,), (actors,) = kinds("Kustomization"), kinds("MPIJob"), kinds("Job")
    level = kustomization["configMapGenerator"][0]["literals"][0].removeprefix("LEVEL=")
    words = templates()["launcher"]["spec"]["containers"][0]["args"]
    learner = flags_of([word.replace("$(LEVEL)", level) for word in words])
    replicas = job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"]
    assert replicas == learner.distributed.num_learners == int(words[words.index("-np") + 1])
    (container,) = templates()["actor"]["spec"]["containers"]
    shell, option, line = container["args"]
    count = actors["spec"]["completions"]
    assert (shell, option, actors["spec"]["parallelism"]) == ("sh", "-c", count)
    env = {entry["name"]: entry.get("value", level) for entry in container["env"]}
    started = []
    for index in range(count):
        done = subprocess.run(
            [shell, option, line.replace("exec python", "printf '%s\\n'")],
            env=os.environ | env | {"JOB_COMPLETION_INDEX": str(index)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        started.append(flags_of(done.stdout.splitlines()))
    services = {service["metadata"]["name"]: service["spec"] for service in kinds("Service")}
    learners = [(name, spec["ports"][0]["port"]) for name, spec in services.items()]
    assert [spec["selector"]["training.kubeflow.org/replica-index"] for spec in services.values()] == ["0", "1"]
    assert learner.distributed.learner_host == f"0.0.0.0:{learners[0][1]}"
    together(learners, len(learner.distributed.actor_hosts.split(",")), started)
    assert {actor.environment.level_name for actor in started} == {learner.environment.level_name}


def test_what_kubernetes_refers_to_is_there() -> None:
    (kustomization,) = kinds("Kustomization")
    here = {path.name for path in (ROOT / "sandbox/kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == here
    images = {image["name"] for image in kustomization["images"]}
    made = {entry["name"] for entry in kustomization["secretGenerator"] + kustomization["configMapGenerator"]}
    claims = {claim["metadata"]["name"] for claim in kinds("PersistentVolumeClaim")}
    for component, template in templates().items():
        spec = template["spec"]
        (container,) = spec["containers"]
        assert container["image"] in images
        for entry in container.get("env", []):
            source = entry.get("valueFrom", {})
            assert all(reference["name"] in made for reference in source.values())
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        asked = [volume["persistentVolumeClaim"] for volume in volumes.values() if "persistentVolumeClaim" in volume]
        assert {claim["claimName"] for claim in asked} <= claims
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        assert set(mounts.values()) == set(volumes)
        probes = [
            container[name]["exec"]["command"] for name in container if "Probe" in name and "exec" in container[name]
        ]
        assert all(is_a_probe(words) for words in probes)
        assert bool(probes) == (component != "launcher") == ("/run/mlma" in mounts)
    for policy in kinds("NetworkPolicy"):
        text = yaml.safe_dump(policy["spec"])
        assert set(re.findall(r"\b(learner|launcher|actor)\b", text)) <= set(templates())


@pytest.mark.parametrize(("hosts", "learners", "actors"), [("a b", 2, 5), ("a b", 4, 9), ("a", 1, 3), ("a", 3, 3)])
def test_slurm_deals_actors_to_learners_in_turn(hosts: str, learners: int, actors: int) -> None:
    env = {"MLMA_LEARNER_HOSTS": hosts, "MLMA_LEARNERS": str(learners), "MLMA_ACTORS": str(actors), "MLMA_PORT": "7000"}
    on_each = learners // len(hosts.split())

    def start(role: str, task: int) -> Config:
        numbers = {"SLURM_PROCID": str(task), "OMPI_COMM_WORLD_RANK": str(task), "MLMA_PYTHON": "printf %s\\n"}
        numbers["SLURMD_NODENAME"] = hosts.split()[task // on_each] if role == "learner" else "c"
        command = ["sandbox/slurm/worker.sh", role, "--level_name=catch", "--learner_host=overridden:1"]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | env | numbers, capture_output=True, text=True, check=True
        )
        return flags_of(done.stdout.splitlines())

    acting = [start("actor", task) for task in range(actors)]
    for rank in range(learners):
        learner = start("learner", rank)
        assert (learner.run.task, learner.distributed.num_learners, learner.environment.level_name) == (
            rank,
            learners,
            "catch",
        )
        host, _, port = learner.distributed.learner_host.partition(":")
        assert (host, port) == (hosts.split()[rank // on_each], "7000"), (
            "those of one host take it and those that follow"
        )
        mine = [
            actor.run.task for actor in acting if actor.distributed.learner_host == f"{host}:{7000 + rank % on_each}"
        ]
        assert mine == list(range(len(learner.distributed.actor_hosts.split(","))))


def alone(folder: Path, words: list[str]) -> list[str]:
    """Words that run a command as in a container of its own: /run and /srv are private, `learners` is this host."""
    (folder / "hosts").write_text("127.0.0.1 localhost learners\n")
    (folder / "srv").mkdir(exist_ok=True)
    script = f"mount --bind {folder}/hosts /etc/hosts; mount --bind {folder}/srv /srv; mount -t tmpfs none /run"
    return ["unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh", *words]


@pytest.mark.hosts
@pytest.mark.timeout(400)
def test_the_commands_of_compose_train_as_they_stand_outside_of_containers(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    services = compose(MLMA_TOKEN="secret", LEVEL="catch")
    env = {"MLMA_TOKEN": "secret", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    started: dict[str, Process] = {}
    try:
        for name, service in services.items():
            started[name] = Process(tmp_path, name, command=alone(tmp_path, service["command"]), env=env)
        learners = started["learners"]
        logdir = tmp_path / "srv/mlma/catch"
        wait_for(lambda: rows(logdir) and rows(logdir)[-1]["frames"] > 2e4, 200, learners.text, learners)
        probe = services["learners"]["healthcheck"]["test"][1:]

        def unhealthy() -> list[str]:
            asked = []
            for name, process in started.items():
                inside = ["nsenter", f"--target={process.process.pid}", "--mount", f"--wd={ROOT}", *probe]
                done = subprocess.run(inside, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)
                asked += [f"{name}: {done.stdout}{done.stderr}"] if done.returncode else []
            return asked

        wait_for(lambda: not unhealthy(), 120, lambda: "\n".join(unhealthy()), learners)
        learners.signal(getattr(signal, services["learners"]["stop_signal"]))
        assert learners.wait(60) == 0, learners.text()
        assert any((logdir / "checkpoints").glob("checkpoint-*.npz"))
        for name in services.keys() - {"learners"}:
            assert started[name].wait(60) == 0, started[name].text()
    finally:
        for process in started.values():
            process.__exit__()
