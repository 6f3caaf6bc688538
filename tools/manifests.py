"""Compares docker/compose.yaml and sandbox/kubernetes with published schemas: `make manifests`, which installs these.

Kubernetes: the schemas of its API, in the package kubernetes-validate, every field known (strict). MPIJob has no schema
in a package: its own few fields are listed here, as in types.go of kubeflow/mpi-operator (v2beta1), and its pod templates are
checked as the pods that they become. Compose: compose_spec.json of the package docker-compose. Nothing is contacted.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[1]
KUBERNETES = ("1.30", "1.37")  # the first has what actors.yaml asks for; the last is the newest that has schemas
MPIJOB = {
    "slotsPerWorker": int, "runLauncherAsWorker": bool, "runPolicy": dict, "mpiReplicaSpecs": dict, "sshAuthMountPath": str,
    "launcherCreationPolicy": str, "mpiImplementation": str,
}  # fmt: skip
RUN_POLICY = {
    "cleanPodPolicy", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit", "schedulingPolicy", "suspend",
    "managedBy",
}  # fmt: skip


def pods_of(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pods that an MPIJob makes; ValueError if it is none."""
    spec = job["spec"]
    for name, value in spec.items():
        if not isinstance(value, MPIJOB.get(name, ())):
            raise ValueError(f"spec.{name}: no such field, or of another type; allowed: {', '.join(MPIJOB)}")
    if unknown := set(spec["runPolicy"]) - RUN_POLICY:
        raise ValueError(f"spec.runPolicy: {', '.join(unknown)}: no such field; allowed: {', '.join(sorted(RUN_POLICY))}")
    if spec.get("mpiImplementation") not in ("OpenMPI", "Intel", "MPICH"):
        raise ValueError("spec.mpiImplementation: must be OpenMPI, Intel or MPICH")
    if set(spec["mpiReplicaSpecs"]) != {"Launcher", "Worker"}:
        raise ValueError("spec.mpiReplicaSpecs: must be Launcher and Worker")
    for role, replica in spec["mpiReplicaSpecs"].items():
        if set(replica) != {"replicas", "restartPolicy", "template"} or replica["restartPolicy"] not in ("Never", "OnFailure"):
            raise ValueError(f"spec.mpiReplicaSpecs.{role}: must have replicas, restartPolicy (Never or OnFailure), template")
        template = replica["template"]
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"] | {"name": role}, "spec": template["spec"]}


def kubernetes() -> int:
    found = 0
    for path in sorted((ROOT / "sandbox/kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] == "Kustomization":
                continue
            for shown in pods_of(document) if document["kind"] == "MPIJob" else [document]:
                for version in KUBERNETES:
                    try:
                        kubernetes_validate.validate(shown, version, strict=True)
                    except jsonschema.ValidationError as error:
                        where = f"{path.name}: {shown['kind']} {shown['metadata']['name']}, {'.'.join(map(str, error.path))}"
                        raise ValueError(f"{where}: {error.message} (Kubernetes {version})") from None
                found += 1
    return found


def compose() -> int:
    package = importlib.util.find_spec("compose")
    assert package is not None and package.submodule_search_locations
    schema = json.loads((Path(package.submodule_search_locations[0]) / "config/compose_spec.json").read_text())
    document = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    del document["name"]  # younger than that package
    try:
        jsonschema.Draft7Validator(schema).validate(document)
    except jsonschema.ValidationError as error:
        raise ValueError(f"docker/compose.yaml: {'.'.join(map(str, error.path))}: {error.message}") from None
    return len(document["services"])


if __name__ == "__main__":
    try:
        print(f"{kubernetes()} objects and pods of Kubernetes, {compose()} services of compose: as their schemas say")
    except ValueError as problem:
        sys.exit(str(problem))
