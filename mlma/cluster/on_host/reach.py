"""Tries the connections that a run needs, for `check`: listens on one host, connects from the others, logs in by SSH.

Its source is sent with each request. Needs only Python 3.8 or later and its standard library. What it starts or writes
is gone after the check; what a lost check leaves, its own process on this host takes back.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlma.cluster.on_host.host_files import authorize

SSH_ATTEMPTS = 3  # a busy sshd drops connections at random
GREETING_BYTES = 64
MAX_PARALLEL = 256  # connections that are tried at once


def hold(request: dict[str, Any]) -> dict[str, Any]:
    """Greets whoever connects, and lets the key of this check log in, with a command that does nothing.

    Both until `release`. Otherwise the process that does it takes them back after the request's `seconds`. A port of 0
    is any; one that cannot be bound is None.
    """
    sockets: list[socket.socket] = []
    ports: list[int | None] = []
    for wanted in request["ports"]:
        try:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", wanted))
            listener.listen(256)
        except OSError:
            ports.append(None)
            continue
        sockets.append(listener)
        ports.append(listener.getsockname()[1])
    seconds = request["seconds"]
    mark = f"{request['mark']}-{int(time.time() + seconds) + 1}"
    pid = os.fork()
    if pid == 0:
        _hold(sockets, request["greeting"].encode(), mark, seconds)
    if request["lines"]:
        authorize(mark, request["lines"])
    return {"ports": ports, "pid": pid, "mark": mark}


def _hold(sockets: list[socket.socket], greeting: bytes, mark: str, seconds: float) -> None:
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # as in a shutdown
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):  # the request has been answered once its output is closed
            os.dup2(null, number)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for listener in select.select(sockets, [], [], 1.0)[0]:
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(greeting)
    finally:
        with contextlib.suppress(OSError):
            authorize(mark, [])
        os._exit(0)


def release(request: dict[str, Any]) -> dict[str, Any]:
    """Takes back what `hold` did."""
    authorize(request["mark"], [])
    with contextlib.suppress(OSError):
        os.kill(request["pid"], signal.SIGTERM)
    return {}


def try_all(request: dict[str, Any]) -> dict[str, Any]:
    """Why this host cannot reach each of the connections [address, port, greeting], nor log in to each of the logins
    {address, port, user, known_hosts}; empty for those it can. All at once."""
    seconds = request["seconds"]
    with tempfile.TemporaryDirectory(prefix="mlma-check-") as folder, ThreadPoolExecutor(MAX_PARALLEL) as threads:
        key = Path(folder, "key")
        key.touch(0o600)
        key.write_text(request["key"])
        problems = [threads.submit(connection_problem, a, p, g, seconds) for a, p, g in request["connections"]]
        refusals = [threads.submit(_login_problem, target, Path(folder), seconds) for target in request["logins"]]
        return {"connections": [p.result() for p in problems], "logins": [r.result() for r in refusals]}


def connection_problem(address: str, port: int, greeting: str, seconds: float) -> str:
    """What keeps this host from `address`; empty if a program answers there, with `greeting` if that is not empty."""
    try:
        with socket.create_connection((address, port), timeout=seconds) as connection:
            if not greeting:
                return ""
            received = connection.recv(GREETING_BYTES)
    except socket.timeout:  # noqa: UP041  # another class before Python 3.10
        return f"no answer within {seconds:.0f} s: a firewall?"
    except OSError as error:
        return error.strerror or str(error)
    return "" if received.startswith(greeting.encode()) else "another program answers there"


def _login_problem(target: dict[str, Any], folder: Path, seconds: float) -> str:
    known = folder / f"known_hosts-{target['user']}@{target['address']}:{target['port']}"
    known.write_text("".join(f"{line}\n" for line in target["known_hosts"]))
    options = {
        "IdentityFile": f"{folder}/key", "IdentitiesOnly": "yes", "BatchMode": "yes", "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known), "GlobalKnownHostsFile": "/dev/null", "ConnectTimeout": str(int(seconds) or 1),
        "LogLevel": "ERROR", "PreferredAuthentications": "publickey",
    }  # fmt: skip
    command = ["ssh", "-F", "/dev/null", "-p", str(target["port"])]
    command += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    problem = ""
    for _ in range(SSH_ATTEMPTS):
        try:
            result = subprocess.run(
                [*command, f"{target['user']}@{target['address']}", "true"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3 * seconds,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"ssh: {error}"
        if result.returncode == 0:
            return ""
        problem = (result.stderr.strip().splitlines() or [f"ssh ended with code {result.returncode}"])[-1]
        if "Permission denied" in problem:
            return (
                f"{problem}: the sshd there takes no key from ~/.ssh/authorized_keys; see AuthorizedKeysFile in its "
                "sshd_config, and the modes of ~ and ~/.ssh (StrictModes)"
            )
        if "timed out" in problem:
            break
        time.sleep(0.3)
    return problem


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Carries out one request of `check`."""
    os.chdir(Path.home())
    actions = {"hold": hold, "release": release, "try": try_all}
    return actions[request["action"]](request)
