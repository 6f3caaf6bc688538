"""The questions of `check`, answered on a host. Its source travels there: nothing but Python's own library. See onhost.py."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any


def answer(request: dict[str, Any]) -> dict[str, Any]:
    os.chdir(Path.home())
    return {
        "python": platform.python_version(),
        "code": {name: file_digest(Path(request["folder"]) / name) for name in request["files"]},
        "packages": {name: package_version(name) for name in request["packages"]},
        "tools": [tool for tool in request["tools"] if shutil.which(os.path.expandvars(tool)) is None],
        "ports": {f"{address}:{port}": port_error(address, port) for address, port in request["ports"]},
        "ours": run_is_present(request["id"]),
        "disk": {folder: free_bytes(Path(folder)) for folder in request["folders"]},
        "gpus": count_gpus() if request["gpus"] else 0,
        "clock": time.time(),
    }


def file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def package_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def port_error(address: str, port: int) -> str:
    """Why nobody can listen there, or nothing."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def free_bytes(folder: Path) -> int:
    """Bytes that we may still write there; -1 if we may not write at all."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return -1
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def count_gpus() -> int:
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in found.stdout.splitlines())


def run_is_present(run_id: str) -> bool:
    """Whether a process of the run is here, which explains a port that is in use."""
    mark = f"MLMA_RUN={run_id}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == os.getuid() and mark in (folder / "environ").read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False
