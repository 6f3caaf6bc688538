"""The commands in docker/, sandbox/kubernetes/ and sandbox/slurm/ are valid and start matching learners and actors.

Not here: schemas of the manifests (`make manifests`), training on Slurm (tests/cluster/test_slurm.py) and in images
(docker/build_without_daemon.sh).
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


def compose(**variables: str) -> dict[str, Any]:
    """The services of compose.yaml, with variables substituted."""

    def value(match: re.Match[str]) -> str:
        name, sign, default = match.groups()
        return variables[name] if name in variables or sign != "-" else str(default)

    text = re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", value, (ROOT / "docker/compose.yaml").read_text())
    return dict(yaml.safe_load(text)["services"])


def config_of(argv: list[str]) -> Config:
    """The configuration from the arguments after experiment.py."""
    (script,) = [i for i, word in enumerate(argv) if word.endswith("experiment.py")]
    return parse(argv[script + 1 :])


def is_health_check(argv: list[str]) -> bool:
    """Whether the command checks the workers whose heartbeats are in /run/mlma."""
    line = " ".join(argv)
    flags = shlex.split(line[line.index("mlma.monitoring.health_check") :])[1:]
    return bool(parse_flags(flags)[0].distributed.heartbeat_folder == "/run/mlma")


def check_worker_sets(learners: list[tuple[str, int]], num_actors: int, actors: list[Config]) -> None:
    """Each learner, identified by its address, has as many actors as it expects, numbered from 0."""
    tasks = collections.defaultdict(list)
    for actor in actors:
        assert actor.run.job_name == "actor"
        tasks[actor.distributed.learner_host].append(actor.run.task)
    expected = {f"{host}:{port}": list(range(num_actors)) for host, port in learners}
    assert {address: sorted(numbers) for address, numbers in tasks.items()} == expected


def test_compose_starts_learners_and_the_actors_that_they_expect() -> None:
    services = compose(MLMA_TOKEN="a secret of this test")
    learner = config_of(services.pop("learners")["command"])
    assert (learner.distributed.num_learners, learner.distributed.learner_host, learner.run.task) == (
        2,
        "0.0.0.0:8001",
        0,
    )
    actors = [config_of(service["command"]) for service in services.values()]
    check_worker_sets([("learners", 8001), ("learners", 8002)], len(learner.distributed.actor_hosts.split(",")), actors)
    assert {actor.environment.level_name for actor in actors} == {learner.environment.level_name}
    for service in compose(MLMA_TOKEN="a secret of this test").values():
        assert f" AS {service['build']['target']}\n" in DOCKERFILE
        assert is_health_check(service["healthcheck"]["test"])


def documents() -> list[dict[str, Any]]:
    """All objects in the manifests for Kubernetes."""
    paths = sorted((ROOT / "sandbox/kubernetes").glob("*.yaml"))
    return [document for path in paths for document in yaml.safe_load_all(path.read_text())]


def kinds(kind: str) -> list[dict[str, Any]]:
    """The objects of one kind."""
    return [document for document in documents() if document["kind"] == kind]


def templates() -> dict[str, dict[str, Any]]:
    """Component -> pod template."""
    (job,), (actors,) = kinds("MPIJob"), kinds("Job")
    found = [replica["template"] for replica in job["spec"]["mpiReplicaSpecs"].values()] + [actors["spec"]["template"]]
    return {template["metadata"]["labels"]["app.kubernetes.io/component"]: template for template in found}


def test_kubernetes_starts_learners_and_the_actors_that_they_expect() -> None:
    (kustomization,), (job,), (actors,) = kinds("Kustomization"), kinds("MPIJob"), kinds("Job")
    level = kustomization["configMapGenerator"][0]["literals"][0].removeprefix("LEVEL=")
    argv = templates()["launcher"]["spec"]["containers"][0]["args"]
    learner = config_of([word.replace("$(LEVEL)", level) for word in argv])
    replicas = job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"]
    assert replicas == learner.distributed.num_learners == int(argv[argv.index("-np") + 1])
    (container,) = templates()["actor"]["spec"]["containers"]
    shell, option, line = container["args"]
    count = actors["spec"]["completions"]
    assert (shell, option, actors["spec"]["parallelism"]) == ("sh", "-c", count)
    env = {entry["name"]: entry.get("value", level) for entry in container["env"]}
    started = []
    for index in range(count):
        result = subprocess.run(
            [shell, option, line.replace("exec python", "printf '%s\\n'")],
            env=os.environ | env | {"JOB_COMPLETION_INDEX": str(index)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        started.append(config_of(result.stdout.splitlines()))
    services = {service["metadata"]["name"]: service["spec"] for service in kinds("Service")}
    learners = [(name, spec["ports"][0]["port"]) for name, spec in services.items()]
    assert [spec["selector"]["training.kubeflow.org/replica-index"] for spec in services.values()] == ["0", "1"]
    assert learner.distributed.learner_host == f"0.0.0.0:{learners[0][1]}"
    check_worker_sets(learners, len(learner.distributed.actor_hosts.split(",")), started)
    assert {actor.environment.level_name for actor in started} == {learner.environment.level_name}


def test_everything_that_the_kubernetes_manifests_refer_to_exists() -> None:
    (kustomization,) = kinds("Kustomization")
    files = {path.name for path in (ROOT / "sandbox/kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    images = {image["name"] for image in kustomization["images"]}
    generated = {entry["name"] for entry in kustomization["secretGenerator"] + kustomization["configMapGenerator"]}
    claims = {claim["metadata"]["name"] for claim in kinds("PersistentVolumeClaim")}
    for component, template in templates().items():
        spec = template["spec"]
        (container,) = spec["containers"]
        assert container["image"] in images
        for entry in container.get("env", []):
            source = entry.get("valueFrom", {})
            assert all(reference["name"] in generated for reference in source.values())
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        used = [volume["persistentVolumeClaim"] for volume in volumes.values() if "persistentVolumeClaim" in volume]
        assert {claim["claimName"] for claim in used} <= claims
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        assert set(mounts.values()) == set(volumes)
        probes = [
            container[name]["exec"]["command"] for name in container if "Probe" in name and "exec" in container[name]
        ]
        assert all(is_health_check(argv) for argv in probes)
        assert bool(probes) == (component != "launcher") == ("/run/mlma" in mounts)
    for policy in kinds("NetworkPolicy"):
        text = yaml.safe_dump(policy["spec"])
        assert set(re.findall(r"\b(learner|launcher|actor)\b", text)) <= set(templates())


@pytest.mark.parametrize(("hosts", "learners", "actors"), [("a b", 2, 5), ("a b", 4, 9), ("a", 1, 3), ("a", 3, 3)])
def test_slurm_assigns_actors_to_learners_round_robin(hosts: str, learners: int, actors: int) -> None:
    env = {"MLMA_LEARNER_HOSTS": hosts, "MLMA_LEARNERS": str(learners), "MLMA_ACTORS": str(actors), "MLMA_PORT": "7000"}
    learners_per_host = learners // len(hosts.split())

    def start(role: str, task: int) -> Config:
        variables = {"SLURM_PROCID": str(task), "OMPI_COMM_WORLD_RANK": str(task), "MLMA_PYTHON": "printf %s\\n"}
        variables["SLURMD_NODENAME"] = hosts.split()[task // learners_per_host] if role == "learner" else "c"
        command = ["sandbox/slurm/worker.sh", role, "--level_name=catch", "--learner_host=overridden:1"]
        environment = os.environ | env | variables
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return config_of(result.stdout.splitlines())

    started = [start("actor", task) for task in range(actors)]
    for rank in range(learners):
        learner = start("learner", rank)
        assert (learner.run.task, learner.distributed.num_learners, learner.environment.level_name) == (
            rank,
            learners,
            "catch",
        )
        host, _, port = learner.distributed.learner_host.partition(":")
        assert (host, port) == (hosts.split()[rank // learners_per_host], "7000"), (
            "the learners of one host listen at this port and the following ones"
        )
        address = f"{host}:{7000 + rank % learners_per_host}"
        tasks = [actor.run.task for actor in started if actor.distributed.learner_host == address]
        assert tasks == list(range(len(learner.distributed.actor_hosts.split(","))))


def as_in_container(folder: Path, argv: list[str]) -> list[str]:
    """A command that runs as in a container: /run and /srv are private, the name `learners` is this host."""
    (folder / "hosts").write_text("127.0.0.1 localhost learners\n")
    (folder / "srv").mkdir(exist_ok=True)
    script = f"mount --bind {folder}/hosts /etc/hosts; mount --bind {folder}/srv /srv; mount -t tmpfs none /run"
    return ["unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh", *argv]


@pytest.mark.hosts
@pytest.mark.timeout(400)
def test_the_commands_of_compose_train_unchanged_outside_of_containers(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    services = compose(MLMA_TOKEN="a secret of this test", LEVEL="catch")
    env = {"MLMA_TOKEN": "a secret of this test", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    started: dict[str, Process] = {}
    try:
        for name, service in services.items():
            started[name] = Process(tmp_path, name, command=as_in_container(tmp_path, service["command"]), env=env)
        learners = started["learners"]
        logdir = tmp_path / "srv/mlma/catch"
        wait_for(lambda: rows(logdir) and rows(logdir)[-1]["frames"] > 2e4, 200, learners.text, learners)
        probe = services["learners"]["healthcheck"]["test"][1:]

        def unhealthy() -> list[str]:
            failures = []
            for name, process in started.items():
                inside = ["nsenter", f"--target={process.process.pid}", "--mount", f"--wd={ROOT}", *probe]
                result = subprocess.run(inside, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)
                failures += [f"{name}: {result.stdout}{result.stderr}"] if result.returncode else []
            return failures

        wait_for(lambda: not unhealthy(), 120, lambda: "\n".join(unhealthy()), learners)
        learners.signal(getattr(signal, services["learners"]["stop_signal"]))
        assert learners.wait(60) == 0, learners.text()
        assert any((logdir / "checkpoints").glob("checkpoint-*.npz"))
        for name in services.keys() - {"learners"}:
            assert started[name].wait(60) == 0, started[name].text()
    finally:
        for process in started.values():
            process.__exit__()
