"""Who hangs: a collective call waits for all ranks and for ever; this names the one that does not come, and ends the run.

Each rank answers on a port of its own "what are you doing, and for how long", from a thread that lives while the main thread
waits. A rank whose step takes longer than `--hang_seconds` asks all others: who does not answer is stopped or gone, who is
busy elsewhere says with what. Every rank is in the same wait, so every console names the same culprit. What a caller must
know to be answered travels by MPI. Not here: what makes mpirun end the other ranks (the exit of one does).
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from mlma.distributed.allreduce import Allreduce
from mlma.distributed.world import World
from mlma.utils.child_process import EXIT_HUNG

ANSWER_TIMEOUT_SECONDS = 3.0  # seconds for which an answer is waited for
EXIT_DELAY_SECONDS = 2.0  # seconds between naming the culprit and ending, so that every rank has named it
STUCK_SECONDS = 120.0  # seconds, at least, after which a call that all ranks have made counts as stuck: a first step takes long
# in the environment: how the other learners reach this host, where its own name does not resolve there
ADDRESS_ENV = "MLMA_ADDRESS"


class HangDetector:
    """Watches the steps of this rank; does nothing with one learner."""

    def __init__(
        self, allreduce: Allreduce, seconds: float, say: Callable[[str], None], last_will: Callable[[], object]
    ) -> None:
        """`last_will` is called before this process is ended; it must not wait for other ranks."""
        self._seconds, self._say, self._last_will = seconds, say, last_will
        self._rank = allreduce.rank
        self._phase, self._since = "starting", time.monotonic()
        self._others: dict[int, dict[str, Any]] = {}
        if allreduce.size == 1:
            return
        one_host = World.here().local_size == allreduce.size
        listener = socket.create_server(("127.0.0.1" if one_host else "", 0), backlog=2 * allreduce.size)
        host = os.environ.get(ADDRESS_ENV) or socket.gethostname()
        me = {"host": host, "port": listener.getsockname()[1], "pid": os.getpid(), "key": secrets.token_hex(16)}
        everyone = [json.loads(data) for data in allreduce.gather(json.dumps(me).encode())]
        self._key = everyone[0]["key"]
        self._others = {rank: peer for rank, peer in enumerate(everyone) if rank != self._rank}
        for rank, peer in self._others.items():
            peer["name"] = f"learner {rank} (process {peer['pid']} on {peer['host']})"
            peer["address"] = "127.0.0.1" if peer["host"] == me["host"] else peer["host"]
        threading.Thread(target=self._answer, args=[listener], name="peers", daemon=True).start()
        threading.Thread(target=self._watch, name="hang", daemon=True).start()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Says what this rank does from now on; in "step" it waits for the others."""
        before = self._phase
        self._phase, self._since = name, time.monotonic()
        yield
        self._phase, self._since = before, time.monotonic()

    def _answer(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), connection:
                connection.settimeout(ANSWER_TIMEOUT_SECONDS)
                if hmac.compare_digest(connection.recv(64), self._key.encode()):
                    state = {"phase": self._phase, "seconds": time.monotonic() - self._since}
                    connection.sendall(json.dumps(state).encode())

    def ask(self, rank: int) -> dict[str, Any] | None:
        """What another rank does, or None if it does not answer."""
        peer = self._others[rank]
        try:
            with socket.create_connection((peer["address"], peer["port"]), timeout=ANSWER_TIMEOUT_SECONDS) as connection:
                connection.settimeout(ANSWER_TIMEOUT_SECONDS)
                connection.sendall(self._key.encode())
                return dict(json.loads(connection.recv(1000)))
        except (OSError, ValueError):
            return None

    def _watch(self) -> None:
        while True:
            time.sleep(1)
            waited = time.monotonic() - self._since
            if self._phase != "step" or waited < self._seconds:
                continue
            culprits = self._culprits()
            if not culprits and waited > max(STUCK_SECONDS, 3 * self._seconds):
                culprits = ["all others, which are in the same call as this one: the network between them, or MPI, is stuck"]
            if culprits:
                for line in culprits:
                    self._say(f"waits for {line}, for {waited:.0f} s; ending the run (--hang_seconds)")
                self._last_will()
                time.sleep(EXIT_DELAY_SECONDS)
                os._exit(EXIT_HUNG)

    def _culprits(self) -> list[str]:
        lines = []
        for rank, peer in self._others.items():
            state = self.ask(rank)
            if state is None:
                lines.append(f"{peer['name']}, which does not answer: stopped, hanging, or cut off")
            elif state["phase"] != "step" and state["seconds"] > self._seconds:
                lines.append(f'{peer["name"]}, which has been busy with "{state["phase"]}" for {state["seconds"]:.0f} s')
        return lines
