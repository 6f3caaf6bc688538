"""Answers the questions of `check` on a host. Its source is sent with the request.

Needs only Python 3.8 or later and its standard library. Changes nothing.
"""

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

NVIDIA_SMI_SECONDS = 20


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What the host has of the things in the request."""
    os.chdir(Path.home())
    return {
        "python": platform.python_version(),
        "code": {name: file_digest(Path(request["folder"]) / name) for name in request["files"]},
        "packages": {name: package_version(name) for name in request["packages"]},
        "missing_tools": [tool for tool in request["tools"] if shutil.which(os.path.expandvars(tool)) is None],
        "port_errors": {f"{address}:{port}": port_error(address, port) for address, port in request["ports"]},
        "run_is_present": run_is_present(request["id"]),
        "free_bytes": {folder: free_bytes(Path(folder)) for folder in request["folders"]},
        "gpus": count_gpus() if request["gpus"] else 0,
        "clock": time.time(),
    }


def file_digest(path: Path) -> str:
    """SHA-256 of a file; empty if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def package_version(name: str) -> str:
    """Version of an installed package; empty if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def port_error(address: str, port: int) -> str:
    """Why no process can listen at this address; empty if one can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def free_bytes(folder: Path) -> int:
    """Free space in the folder, or in the nearest parent that exists; -1 if it is not writable."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return -1
    file_system = os.statvfs(folder)
    return file_system.f_bavail * file_system.f_frsize


def count_gpus() -> int:
    """Number of NVIDIA GPUs; 0 without their driver."""
    try:
        result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in result.stdout.splitlines())


def run_is_present(run_id: str) -> bool:
    """Whether a process of the run is on this host, which explains a port that is in use."""
    mark = f"MLMA_RUN={run_id}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == os.getuid() and mark in (folder / "environ").read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False
