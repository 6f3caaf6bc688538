"""Many hosts at once: each in a thread of its own, each with its own time limits, so that a dead one delays nobody.

Connections stay open for the next question. Not here: what is asked (the verbs), one connection (mlma/cluster/remote/ssh.py).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mlma.cluster.planning.launch_plan import Host, run_folder
from mlma.cluster.remote.ssh import Connection, HostError, SshLogin, connect

T = TypeVar("T")
MAX_PARALLEL_HOSTS = 200  # hosts
ANSWER_MARK = "@mlma "  # before the answer: a login shell may print what it likes
ON_HOST_SOURCES = Path(__file__).parents[1] / "on_host"
LOADER = (
    "import sys,json;m=json.loads(sys.stdin.read());n={};"
    "exec(compile(m['source'],m['name'],'exec'),n);print('\\n@mlma '+json.dumps(n['answer'](m['request'])))"
)


class Hosts:
    """The hosts of a run and our connections to them."""

    def __init__(self, hosts: dict[str, Host], login: Callable[[Host], SshLogin], seconds: float) -> None:
        self.hosts, self._login, self.seconds = hosts, login, seconds
        self._connections: dict[str, Connection] = {}
        self._lock = threading.Lock()

    def each(self, keys: Iterable[str], work: Callable[[Host, Connection], T]) -> dict[str, T | HostError]:
        """`work` on every host at once; a host on which it failed has the reason in place of a result."""
        keys = list(dict.fromkeys(keys))
        if not keys:
            return {}
        with ThreadPoolExecutor(min(MAX_PARALLEL_HOSTS, len(keys))) as pool:
            return dict(zip(keys, pool.map(lambda key: self._one(key, work), keys), strict=True))

    def _one(self, key: str, work: Callable[[Host, Connection], T]) -> T | HostError:
        host = self.hosts[key]
        try:
            with self._lock:
                connection = self._connections.get(key)
            if connection is None:
                connection = connect(host, self._login(host))
                with self._lock:
                    self._connections[key] = connection
            return work(host, connection)
        except HostError as fault:
            with self._lock:
                broken = self._connections.pop(key, None)
            if broken:
                broken.close()
            return fault

    def ask(
        self, requests: dict[str, dict[str, Any]], seconds: float | None = None, source: str = "host_agent"
    ) -> dict[str, dict[str, Any] | HostError]:
        """Sends each host its request, and its answer back."""
        limit = seconds or self.seconds
        return self.each(
            requests, lambda host, connection: call_host_agent(host, connection, requests[host.key], limit, source)
        )

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


def call_host_agent(
    host: Host,
    connection: Connection,
    request: dict[str, Any],
    seconds: float,
    source: str,
    python: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Runs mlma/cluster/SOURCE.py there; source and request go over stdin, so that no process list shows them."""
    words = python or host.python
    if "session" in request:
        request = request | {"folder": run_folder(request["session"], host.key)}
    message = {"name": source, "source": (ON_HOST_SOURCES / f"{source}.py").read_text(), "request": request}
    done = connection.run([*words, "-c", LOADER], json.dumps(message), seconds)
    marked = [line for line in done.out.splitlines() if line.startswith(ANSWER_MARK)]
    if done.code == 0 and marked:
        return dict(json.loads(marked[-1].removeprefix(ANSWER_MARK)))
    said = (done.err.strip() or done.out.strip() or f"ended with code {done.code}").splitlines()[-1]
    if done.code in (126, 127):
        raise HostError(f"cannot run {words[0]}: {said} (column python, or --sync to set it up)")
    raise HostError(f"could not do it: {said}")
