"""Validates docker/compose.yaml and sandbox/kubernetes against published schemas: `make manifests`, which installs
them.

Kubernetes: the API schemas in the package kubernetes-validate, in strict mode (unknown fields are errors). No package
has a schema of MPIJob, so its few fields are listed here, as in types.go of kubeflow/mpi-operator (v2beta1), and its
pod templates are validated as pods. Compose: compose_spec.json in the package docker-compose. No network access.
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
KUBERNETES = ("1.30", "1.37")  # the oldest that has what actors.yaml uses, and the newest with schemas
MPIJOB = {
    "slotsPerWorker": int, "runLauncherAsWorker": bool, "runPolicy": dict, "mpiReplicaSpecs": dict,
    "sshAuthMountPath": str, "launcherCreationPolicy": str, "mpiImplementation": str,
}  # fmt: skip
RUN_POLICY = {
    "cleanPodPolicy", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit", "schedulingPolicy", "suspend",
    "managedBy",
}  # fmt: skip


def pods_of(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the pods that an MPIJob creates. ValueError if it is not a valid MPIJob."""
    spec = job["spec"]
    for name, value in spec.items():
        if not isinstance(value, MPIJOB.get(name, ())):
            raise ValueError(f"spec.{name}: unknown field or wrong type; allowed: {', '.join(MPIJOB)}")
    if unknown := set(spec["runPolicy"]) - RUN_POLICY:
        raise ValueError(
            f"spec.runPolicy: {', '.join(unknown)}: unknown field; allowed: {', '.join(sorted(RUN_POLICY))}"
        )
    if spec.get("mpiImplementation") not in ("OpenMPI", "Intel", "MPICH"):
        raise ValueError("spec.mpiImplementation: must be OpenMPI, Intel or MPICH")
    if set(spec["mpiReplicaSpecs"]) != {"Launcher", "Worker"}:
        raise ValueError("spec.mpiReplicaSpecs: must be Launcher and Worker")
    for role, replica in spec["mpiReplicaSpecs"].items():
        if set(replica) != {"replicas", "restartPolicy", "template"} or replica["restartPolicy"] not in (
            "Never",
            "OnFailure",
        ):
            raise ValueError(
                f"spec.mpiReplicaSpecs.{role}: must have replicas, restartPolicy (Never or OnFailure), template"
            )
        template = replica["template"]
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": template["metadata"] | {"name": role},
            "spec": template["spec"],
        }


def kubernetes() -> int:
    """Validates every object; returns their number."""
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
                        field = ".".join(map(str, error.path))
                        where = f"{path.name}: {shown['kind']} {shown['metadata']['name']}, {field}"
                        raise ValueError(f"{where}: {error.message} (Kubernetes {version})") from None
                found += 1
    return found


def compose() -> int:
    """Validates compose.yaml; returns the number of services."""
    package = importlib.util.find_spec("compose")
    assert package is not None and package.submodule_search_locations
    schema = json.loads((Path(package.submodule_search_locations[0]) / "config/compose_spec.json").read_text())
    document = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    del document["name"]  # newer than the schema
    try:
        jsonschema.Draft7Validator(schema).validate(document)
    except jsonschema.ValidationError as error:
        raise ValueError(f"docker/compose.yaml: {'.'.join(map(str, error.path))}: {error.message}") from None
    return len(document["services"])


if __name__ == "__main__":
    try:
        print(f"{kubernetes()} Kubernetes objects and pods, {compose()} compose services: valid")
    except ValueError as problem:
        sys.exit(str(problem))
