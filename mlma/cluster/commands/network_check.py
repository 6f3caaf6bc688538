"""The part of `check` between hosts: whether each reaches the others as the run will.

* Actors' hosts reach each learner that they need: its port, or with --channel=ssh the sshd of its host.
* Learners' hosts reach each other at any port, since MPI chooses its own.
* The first learner's host logs in to the other learners' hosts by SSH with a key in authorized_keys there, as mpirun
  does. So does, with --channel=ssh, one actor host to each learner, as the tunnels do.

For that, learners' hosts listen for some seconds, and a key that only this check has is in their authorized_keys; it
may run nothing. A check that is interrupted takes both back, and a host that loses its check does so by itself after a
while. Not here: what a host does (mlma/cluster/on_host/reach.py).
"""

from __future__ import annotations

import dataclasses
import io
import secrets
import threading
from typing import Any

import paramiko

from mlma.cluster.context import Context, display_name
from mlma.cluster.planning.hosts import Host
from mlma.cluster.planning.worker_commands import worker_kind
from mlma.cluster.planning.worker_sets import Learner
from mlma.cluster.remote.host_pool import call_on_host
from mlma.cluster.remote.ssh import Connection, HostError

ANY_PORT = 0
SSH_GREETING = "SSH-"
LISTEN_SECONDS = 60.0  # in addition to the time limits of connections
INTERRUPTED_SECONDS = 5.0  # for hosts that are just carrying out the first request when the check is interrupted
KEY_OPTIONS = 'restrict,command="/bin/true"'


@dataclasses.dataclass(frozen=True)
class Route:
    """A connection that the run needs."""

    source: str  # host key
    target: str
    port: int  # ANY_PORT: between learners
    name: str  # of what is reached


class NetworkCheck:
    """One check of these hosts, those of a plan that answered."""

    def __init__(self, context: Context, hosts: list[str]) -> None:
        self._context, self._plan = context, context.plan
        self._alive = set(hosts)
        self._seconds = context.options.connect_seconds
        self._greeting = f"mlma-{secrets.token_hex(8)}"
        self._listening: dict[str, dict[int, int | None]] = {}  # host key -> wanted port -> port
        self._held: dict[str, dict[str, Any]] = {}  # host key -> what it has to take back
        self._changed, self._preparing, self._is_ending = threading.Condition(), 0, False
        self._host_keys: dict[str, list[str]] = {}
        self.problems: dict[str, list[str]] = {}  # by the host that cannot reach another

    def run(self) -> dict[str, list[str]]:
        """Host key -> what this host cannot reach."""
        routes, logins = self._routes(), self._logins()
        if not routes and not logins:
            return {}
        key = paramiko.ECDSAKey.generate(bits=256)
        targets = dict.fromkeys([*(route.target for route in routes), *(target for _, target in logins)])
        permitted = {target for _, target in logins}
        line = f"{KEY_OPTIONS} {key.get_name()} {key.get_base64()}"
        try:
            self._for_each(targets, lambda host, to: self._prepare(host, to, routes, [line] * (host.key in permitted)))
            text = io.StringIO()
            key.write_private_key(text)
            sources = dict.fromkeys([*(route.source for route in routes), *(source for source, _ in logins)])
            self._for_each(sources, lambda host, to: self._try_all(host, to, routes, logins, text.getvalue()))
        finally:
            with self._changed:
                self._is_ending = True
                self._changed.wait_for(lambda: not self._preparing, INTERRUPTED_SECONDS)
            self._for_each(list(self._held), self._release)
        return self.problems

    def _routes(self) -> list[Route]:
        plan = self._plan
        routes = []
        for learner in plan.learners:
            target = plan.hosts[learner.worker.host]
            uses_ssh = self._context.options.channel == "ssh"
            port = target.port if uses_ssh else learner.port
            name = f"sshd of learner {learner.rank}" if uses_ssh else f"learner {learner.rank}"
            routes += [Route(source, target.key, port, name) for source in self._actor_hosts(learner)]
            for other in plan.learners:
                names = f"learner {learner.rank}, as MPI does,"
                routes.append(Route(other.worker.host, target.key, ANY_PORT, names))
        return [
            route
            for route in dict.fromkeys(routes)
            if route.source != route.target and {route.source, route.target} <= self._alive
        ]

    def _actor_hosts(self, learner: Learner) -> list[str]:
        """The hosts of this learner's actors."""
        names = {f"actor-{number}" for number in learner.actors}
        hosts = (p.host for p in self._plan.processes if worker_kind(p.name) == "actor" and p.name in names)
        return list(dict.fromkeys(hosts))

    def _logins(self) -> list[tuple[str, str]]:
        """(source, target) of each login: from the first learner's host, or from one that has a tunnel there."""
        plan = self._plan
        logins: dict[str, str] = {}  # target -> source
        for learner in plan.learners:
            target = learner.worker.host
            sources = [plan.head.key] if plan.spans_hosts() else []
            if self._context.options.channel == "ssh":
                sources += self._actor_hosts(learner)
            sources = [source for source in sources if source != target and source in self._alive]
            if sources and target in self._alive:
                logins.setdefault(target, sources[0])
        return [(source, target) for target, source in logins.items()]

    def _for_each(self, keys: Any, work: Any) -> None:
        answers = self._context.hosts.for_each([key for key in keys if key in self._alive], work)
        for key, answer in answers.items():
            if isinstance(answer, HostError):
                self.problems.setdefault(key, []).append(str(answer))

    def _call(self, host: Host, connection: Connection, action: str, **values: Any) -> dict[str, Any]:
        seconds = self._context.hosts.command_seconds + 4 * self._seconds
        return call_on_host(host, connection, {"action": action, **values}, seconds, "reach")

    def _prepare(self, host: Host, connection: Connection, routes: list[Route], lines: list[str]) -> None:
        """Listens where the run will, and permits the key."""
        with self._changed:
            if self._is_ending:
                return
            self._preparing += 1
        try:
            self._host_keys[host.key] = connection.host_keys()
            ports = sorted({route.port for route in routes if route.target == host.key} - {host.port})
            if ports or lines:
                # Hosts that share a home share authorized_keys.
                mark, seconds = f"{self._greeting}-{host.port}", LISTEN_SECONDS + 6 * self._seconds
                values = {"ports": ports, "greeting": self._greeting, "lines": lines, "mark": mark}
                held = self._call(host, connection, "hold", seconds=seconds, **values)
                self._listening[host.key] = dict(zip(ports, held["ports"], strict=True))
                self._held[host.key] = held
        finally:
            with self._changed:
                self._preparing -= 1
                self._changed.notify_all()

    def _try_all(
        self, host: Host, connection: Connection, routes: list[Route], logins: list[tuple[str, str]], key: str
    ) -> None:
        """Connects, and logs in by SSH, from this host."""
        own = [route for route in routes if route.source == host.key and route.target in self._host_keys]
        connections = [(route, address) for route in own if (address := self._address(route))[1]]
        targets = [self._plan.hosts[target] for source, target in logins if source == host.key]
        targets = [target for target in targets if target.key in self._host_keys]
        logged_in = [
            {
                "address": target.ip,
                "port": target.port,
                "user": target.user,
                "known_hosts": [f"{_known_name(target)} {line}" for line in self._host_keys[target.key]],
            }
            for target in targets
        ]
        request = {"connections": [address for _, address in connections], "logins": logged_in, "key": key}
        answer = self._call(host, connection, "try", seconds=self._seconds, **request)
        for (route, (ip, port, _)), problem in zip(connections, answer["connections"], strict=True):
            if problem:
                at = f"{ip}, any port (tried {port})" if route.port == ANY_PORT else f"{ip}:{port}"
                self._note(host, f"cannot reach {route.name} at {at}: {problem}")
        for target, problem in zip(targets, answer["logins"], strict=True):
            if problem:
                self._note(host, f"ssh to {target.user}@{display_name(target)} fails: {problem}")

    def _address(self, route: Route) -> tuple[str, int, str]:
        """Address, port and greeting of what a route leads to; port 0 if nothing can be tried."""
        target = self._plan.hosts[route.target]
        if route.port == target.port and self._context.options.channel == "ssh":
            return target.ip, route.port, SSH_GREETING
        # A port that is taken already: by the run itself, or `check` reports it.
        listening = self._listening.get(route.target, {}).get(route.port)
        return target.ip, listening or route.port, self._greeting if listening else ""

    def _note(self, host: Host, problem: str) -> None:
        self.problems.setdefault(host.key, []).append(problem)

    def _release(self, host: Host, connection: Connection) -> None:
        """Forbids the key, and ends the listener."""
        held = self._held[host.key]
        self._call(host, connection, "release", mark=held["mark"], pid=held["pid"])


def _known_name(host: Host) -> str:
    return host.ip if host.port == 22 else f"[{host.ip}]:{host.port}"
