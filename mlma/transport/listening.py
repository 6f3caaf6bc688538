"""Where a learner listens: on a unix socket that only this user can open, with a gateway in front of it if other hosts
must reach it (mlma/transport/gateway.py).

Two learners never share an address: TensorFlow's server would let them. Not here: what is served
(mlma/transport/server.py).
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mlma.transport.addresses import Address, check_private_folder, open_connection, parse_address
from mlma.utils.child_process import PARENT_PID_ENV
from mlma.utils.own_files import open_own, socket_folder

logger = logging.getLogger(__name__)

RESTART_BACKOFF_SECONDS = (1.0, 30.0)  # before a gateway that ended is restarted: first, longest
HEALTHY_SECONDS = 60.0  # of running, after which the next restart is quick again
BACKLOG = 512
CHECK_SECONDS = 5.0


class Listening(NamedTuple):
    """The addresses of a learner that is about to serve."""

    server: str  # for TensorFlow's server, and for actors on this machine
    shown: str  # in the log
    gateway: GatewayProcess | None


@contextlib.contextmanager
def listen(address: Address | None, token: str) -> Iterator[Listening]:
    """Reserves `address`, a private socket if None; ValueError in one line if that is impossible."""
    if address and address.channel == "socket":
        with _own_socket(Path(address.host)):
            yield Listening(str(address), str(address), None)
        return
    if address and address.channel == "plaintext":
        _create_listener(address).close()  # TensorFlow binds again, and would share the port with others
        yield Listening(str(address), f"{address} (without encryption: --insecure_plaintext)", None)
        return
    with socket_folder() as folder:
        server = f"unix:{folder}/learner"
        if not address:
            yield Listening(server, server, None)
            return
        with _create_listener(address) as listener:
            gateway = GatewayProcess(listener, f"{folder}/learner", token)
            try:
                yield Listening(server, f"{address} (TLS)", gateway)
            finally:
                gateway.stop()


def check_serving(server: str, learner_host: str) -> None:
    """ValueError in one line unless somebody listens at the address: TensorFlow only logs that it could not."""
    try:
        open_connection(parse_address(server, token="", plaintext=True), CHECK_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"--learner_host={learner_host}: the learner does not listen there: {reason}") from None


@contextlib.contextmanager
def _own_socket(path: Path) -> Iterator[None]:
    """Reserves the path of a socket until this process ends."""
    check_private_folder(path.absolute().parent, f"--learner_host=unix:{path}")
    with open_own(Path(f"{path}.lock"), os.O_RDWR | os.O_CREAT, 0o600) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = lock.read(20).decode(errors="replace").strip()
            raise ValueError(f"--learner_host=unix:{path}: another learner, process {owner}, listens there") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n".encode())
        yield


def _create_listener(address: Address) -> socket.socket:
    flag = f"--learner_host={address}"
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ValueError(f"{flag}: cannot resolve {address.host}: {error.strerror or error}") from None
    family, _, _, _, where = found[0]
    try:
        return socket.create_server(where, family=family, backlog=BACKLOG)
    except OSError as error:
        raise ValueError(f"{flag}: cannot listen there: {error.strerror or error}") from None


class GatewayProcess:
    """Keeps a gateway running, and logs what it reports."""

    def __init__(self, listener: socket.socket, learner_socket: str, token: str) -> None:
        self._listener = listener
        self._orders = {"listener": listener.fileno(), "socket": learner_socket, "token": token}
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self.on_refused: Callable[[int], Any] = lambda count: None  # called with a number of refused connections
        # One thread that stays, since the kernel ties a child to the thread that started it.
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process id at the moment; 0 between two processes."""
        return self._process.pid if self._process else 0

    def stop(self) -> None:
        """Ends the gateway; the listener is closed by its owner."""
        self._stop.set()
        if self._process:
            self._process.kill()
        self._thread.join(5)

    def _run(self) -> None:
        first, longest = RESTART_BACKOFF_SECONDS
        pause = first
        while not self._stop.is_set():
            began, reason = time.monotonic(), "ended"
            try:
                self._run_once()
            except OSError as error:
                reason = f"cannot be started: {error}"
            pause = first if time.monotonic() - began > HEALTHY_SECONDS else pause
            if not self._stop.wait(pause):
                logger.warning("the gateway %s; starting it again after %.0f s", reason, pause)
            pause = min(2 * pause, longest)

    def _run_once(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "MLMA_TOKEN"}
        process = subprocess.Popen(
            [sys.executable, "-m", "mlma.transport.gateway"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[self._listener.fileno()],
            env=environment | {PARENT_PID_ENV: str(os.getpid())},
            cwd=Path(__file__).parents[2],
        )
        self._process = process
        assert process.stdin and process.stdout
        with process:
            if self._stop.is_set():
                process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(self._orders) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                self._report(collections.Counter(json.loads(line)))
        self._process = None

    def _report(self, refused: collections.Counter[str]) -> None:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in refused.most_common(4))
        logger.warning("refused %d connections: %s", refused.total(), reasons)
        self.on_refused(refused.total())
