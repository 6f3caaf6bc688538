"""Requests to many hosts at once: one thread and own time limits for each, so a dead host delays no other.

A command waits for a dead host only as long as it has to: see `Hosts`.

Connections stay open for the next request. Not here: the requests (mlma/cluster/commands/), one connection
(mlma/cluster/remote/ssh.py), the answers (mlma/cluster/on_host/).
"""

from __future__ import annotations

import functools
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlma.cluster.planning.hosts import Host, run_folder
from mlma.cluster.remote.progress import WaitingLine
from mlma.cluster.remote.ssh import Connection, connect
from mlma.cluster.remote.ssh_login import HostError, SshLogin

T = TypeVar("T")
MAX_PARALLEL_HOSTS = 200
POLL_SECONDS = 0.1  # between two looks at the clock
CLOSE_SECONDS = 1.0  # for all connections to be closed
CONNECTING = "connecting"  # until the host accepts a connection
ANSWER_MARK = "@mlma "  # precedes the answer, since a login shell may print anything
ON_HOST_SOURCES = Path(__file__).parents[1] / "on_host"
HELPERS = {  # modules that a program imports
    "host_agent": ("host_files", "disks"),
    "reach": ("host_files",),
    "supervisor": ("worker_end", "worker_watch"),  # in files next to it
}
# Makes modules of the sources, the last of which answers the request.
LOADER = """
import json, sys, types
message = json.loads(sys.stdin.read())
for name, source in message["sources"].items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
print("\\n@mlma " + json.dumps(module.answer(message["request"])))
"""


class _Task:
    """The work for one host."""

    def __init__(self, key: str, ahead: _Task | None = None) -> None:
        self.key, self.ahead = key, ahead  # `ahead` has begun to connect to the host already
        self.started = 0.0  # time at which its connection was begun; 0 while it waits for its turn
        self.step = CONNECTING
        self.result: Any = None
        self.done = self.given_up = False

    @property
    def current(self) -> _Task:
        """The one that is at work."""
        return self.ahead if self.ahead and not self.ahead.done else self

    def is_connecting(self) -> bool:
        """Whether the host has not accepted a connection yet."""
        return not self.done and self.current.step == CONNECTING


class Hosts:
    """The hosts of a run and the connections to them, which stay open until `close`.

    With `patience`, a command ends without the hosts that have not even accepted a connection after that many seconds,
    as soon as it is done with all others.
    """

    def __init__(
        self,
        hosts: dict[str, Host],
        login: Callable[[Host], SshLogin],
        command_seconds: float,
        patience: float = math.inf,
    ) -> None:
        self.hosts, self.command_seconds, self.patience = hosts, command_seconds, patience
        self.shows_progress = True
        self._login = login
        self._connections: dict[str, Connection] = {}
        self._excluded: dict[str, HostError] = {}
        self._turns = threading.Semaphore(MAX_PARALLEL_HOSTS)
        self._changed = threading.Condition()
        self._tasks: dict[str, _Task] = {}  # the last one of each host
        self._ahead: dict[str, _Task] = {}  # connections that were begun before they are needed

    def connect_ahead(self, keys: Iterable[str]) -> None:
        """Begins to connect to hosts that are needed later, so that the patience with a dead one begins now."""
        for key in keys:
            if key not in self._connections and key not in self._ahead:
                self._ahead[key] = task = _Task(key)
                args = task, self._login(self.hosts[key]), lambda *_: None
                threading.Thread(target=self._run, args=args, daemon=True).start()

    def silent(self, keys: Iterable[str], seconds: float) -> list[str]:
        """Those hosts that have neither accepted a connection nor failed after so many seconds, or now."""
        keys = list(keys)
        self.connect_ahead(keys)

        def found() -> list[str]:
            return [key for key in keys if key in self._ahead and self._ahead[key].is_connecting()]

        with self._changed:
            self._changed.wait_for(lambda: not found(), seconds)
            return found()

    def for_each(
        self, keys: Iterable[str], work: Callable[[Host, Connection], T], others_answered: bool = False
    ) -> dict[str, T | HostError]:
        """Host key -> result of `work` on that host, on all hosts at once; the error where it failed.

        On Ctrl-C, nothing new is started on any host. `others_answered`: all hosts that are silent deserve no more
        patience, since others of the same command have answered.
        """
        tasks = {key: _Task(key, self._ahead.pop(key, None)) for key in dict.fromkeys(keys)}
        self._tasks |= tasks
        # Here, since this may prompt for a password, and Ctrl-C comes to this thread.
        logins = {key: self._login(self.hosts[key]) for key in tasks if key not in self._connections}
        for task in tasks.values():
            # Threads of a pool would keep this process alive until the last dead host has timed out.
            threading.Thread(target=self._run, args=(task, logins.get(task.key), work), daemon=True).start()
        try:
            with WaitingLine() as line:
                self._wait(list(tasks.values()), line, others_answered)
        except BaseException:
            with self._changed:
                for task in tasks.values():
                    task.given_up = True
            raise
        for task in tasks.values():
            if isinstance(task.result, BaseException) and not isinstance(task.result, HostError):
                raise task.result
        return {key: task.result for key, task in tasks.items()}

    def request(
        self, requests: dict[str, dict[str, Any]], seconds: float | None = None
    ) -> dict[str, dict[str, Any] | HostError]:
        """Sends each host agent its request, by host key. Returns the answers, within `seconds` (--command_seconds)."""
        timeout = seconds or self.command_seconds

        def send(host: Host, connection: Connection) -> dict[str, Any]:
            return call_on_host(host, connection, requests[host.key], timeout)

        return self.for_each(requests, send)

    def note(self, key: str, step: str) -> None:
        """What is being done on a host, for whoever waits for it."""
        if key in self._tasks:
            self._tasks[key].step = step

    def exclude(self, problems: Mapping[str, HostError]) -> None:
        """From now on, these hosts are not contacted but count as failed for this reason."""
        self._excluded |= problems

    def close(self) -> None:
        """Closes all connections. Does not wait for a host that does not take part."""
        threads = [threading.Thread(target=each.close, daemon=True) for each in list(self._connections.values())]
        for thread in threads:
            thread.start()
        end = time.monotonic() + CLOSE_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _wait(self, tasks: list[_Task], line: WaitingLine, others_answered: bool) -> None:
        """Until all tasks are done, or only hosts are missing that deserve no more patience."""
        with self._changed:
            while pending := [task for task in tasks if not task.done]:
                now = time.monotonic()
                answered = others_answered or any(not isinstance(t.result, HostError) for t in tasks if t.done)
                silent = [t for t in pending if t.is_connecting() and 0 < t.current.started < now - self.patience]
                if answered and len(silent) == len(pending):
                    for task in pending:
                        task.given_up = task.done = True
                        task.result = HostError(
                            f"no answer within {self.patience:g} s: host down, unreachable, or behind a firewall "
                            "(--connect_seconds waits longer)"
                        )
                    return
                if self.shows_progress:
                    line.show(len(tasks), [(task.key, task.current.step) for task in pending])
                self._changed.wait(POLL_SECONDS)

    def _run(self, task: _Task, login: SshLogin | None, work: Callable[[Host, Connection], Any]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: task.ahead is None or task.ahead.done)
        with self._turns:
            task.started = time.monotonic()
            try:
                result = self._on_host(task, login, work)
            except BaseException as error:  # raised in the thread that waits
                result = error
        with self._changed:
            if not task.given_up:
                task.result, task.done = result, True
            self._changed.notify_all()

    def _on_host(self, task: _Task, login: SshLogin | None, work: Callable[[Host, Connection], T]) -> T | HostError:
        host = self.hosts[task.key]
        if task.key in self._excluded:
            return self._excluded[task.key]
        if task.ahead and isinstance(task.ahead.result, HostError):
            return task.ahead.result
        try:
            with self._changed:
                connection = self._connections.get(task.key)
            if connection is None:
                connection = connect(host, login or self._login(host), functools.partial(self._accepted, task))
            with self._changed:
                self._connections[task.key] = connection
                if task.given_up:
                    raise HostError("answered too late")
                task.step = "working"
            return work(host, connection)
        except HostError as error:
            with self._changed:
                broken = self._connections.pop(task.key, None)
            if broken:
                broken.close()
            return error

    def _accepted(self, task: _Task) -> None:
        with self._changed:
            task.step = "logging in"
            self._changed.notify_all()


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
