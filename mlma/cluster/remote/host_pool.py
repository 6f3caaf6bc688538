"""Requests to many hosts at once: one thread and own time limits for each, so a dead host delays no other.

Connections stay open for the next request. Not here: the requests (mlma/cluster/commands/), one connection
(mlma/cluster/remote/ssh.py), the answers (mlma/cluster/on_host/).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mlma.cluster.planning.hosts import Host, run_folder
from mlma.cluster.remote.ssh import Connection, HostError, SshLogin, connect

T = TypeVar("T")
MAX_PARALLEL_HOSTS = 200
ANSWER_MARK = "@mlma "  # precedes the answer, since a login shell may print anything
ON_HOST_SOURCES = Path(__file__).parents[1] / "on_host"
HELPERS = {"host_agent": ("host_files", "disks"), "reach": ("host_files",)}  # modules that a program imports
# Makes modules of the sources, the last of which answers the request.
LOADER = """
import json, sys, types
message = json.loads(sys.stdin.read())
for name, source in message["sources"].items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
print("\\n@mlma " + json.dumps(module.answer(message["request"])))
"""


class Hosts:
    """The hosts of a run, and the open connections to them."""

    def __init__(self, hosts: dict[str, Host], login: Callable[[Host], SshLogin], command_seconds: float) -> None:
        self.hosts, self.command_seconds = hosts, command_seconds
        self._login = login
        self._connections: dict[str, Connection] = {}
        self._lock = threading.Lock()

    def for_each(self, keys: Iterable[str], work: Callable[[Host, Connection], T]) -> dict[str, T | HostError]:
        """Host key -> result of `work` on that host, on all hosts at once; the error where it failed."""
        keys = list(dict.fromkeys(keys))
        if not keys:
            return {}
        with ThreadPoolExecutor(min(MAX_PARALLEL_HOSTS, len(keys))) as pool:
            return dict(zip(keys, pool.map(lambda key: self._on_host(key, work), keys), strict=True))

    def request(
        self, requests: dict[str, dict[str, Any]], seconds: float | None = None
    ) -> dict[str, dict[str, Any] | HostError]:
        """Sends each host agent its request, by host key. Returns the answers, within `seconds` (--command_seconds)."""
        timeout = seconds or self.command_seconds

        def send(host: Host, connection: Connection) -> dict[str, Any]:
            return call_on_host(host, connection, requests[host.key], timeout)

        return self.for_each(requests, send)

    def close(self) -> None:
        """Closes all connections."""
        for connection in self._connections.values():
            connection.close()

    def _on_host(self, key: str, work: Callable[[Host, Connection], T]) -> T | HostError:
        host = self.hosts[key]
        try:
            with self._lock:
                connection = self._connections.get(key)
            if connection is None:
                connection = connect(host, self._login(host))
                with self._lock:
                    self._connections[key] = connection
            return work(host, connection)
        except HostError as error:
            with self._lock:
                broken = self._connections.pop(key, None)
            if broken:
                broken.close()
            return error


def call_on_host(
    host: Host, connection: Connection, request: dict[str, Any], seconds: float, program: str = "host_agent"
) -> dict[str, Any]:
    """Runs mlma/cluster/on_host/PROGRAM.py on the host and returns its answer.

    Source and request are sent over standard input, so no process list shows them.
    """
    if "session" in request:
        request = request | {"folder": run_folder(request["session"], host.key)}
    sources = {
        f"mlma.cluster.on_host.{name}": (ON_HOST_SOURCES / f"{name}.py").read_text()
        for name in (*HELPERS.get(program, ()), program)
    }
    message = {"sources": sources, "request": request}
    result = connection.run([*host.python, "-c", LOADER], json.dumps(message), seconds)
    answers = [line for line in result.stdout.splitlines() if line.startswith(ANSWER_MARK)]
    if result.code == 0 and answers:
        answer = dict(json.loads(answers[-1].removeprefix(ANSWER_MARK)))
        if "disk_full" in answer:
            raise HostError(answer["disk_full"])
        return answer
    output = result.stderr.strip() or result.stdout.strip() or f"ended with code {result.code}"
    last_line = output.splitlines()[-1]
    if result.code in (126, 127):
        raise HostError(
            f"cannot run {host.python[0]}: {last_line} (set the column python, or use --sync to install it)"
        )
    raise HostError(f"the request {request.get('action', program)!r} failed: {last_line}")
