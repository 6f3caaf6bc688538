"""Detects hanging learners: a collective call waits for all ranks forever; this names the rank that is missing and ends
the run.

Each rank answers on a port of its own which phase it is in and for how long, from a thread that lives while the main
thread waits. A rank whose collective takes longer than `--hang_timeout_seconds` asks all others. A rank that does not
answer is stopped or unreachable; a rank that is busy elsewhere reports with what. All ranks wait for the same one, so
every console names the same culprit. The key that a query must present travels by MPI. Not here: what ends the other
ranks (mpirun does when one exits).
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from mlma.distributed.allreduce import Allreduce
from mlma.distributed.learner_watch import STUCK_SECONDS
from mlma.distributed.world import World
from mlma.utils.child_process import EXIT_HUNG

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_SECONDS = 3.0
KEY_TIMEOUT_SECONDS = 0.5
EXIT_DELAY_SECONDS = 2.0  # between naming the culprit and exiting, so that every rank names it
ADDRESS_ENV = (
    "MLMA_ADDRESS"  # environment variable: this host's address for the others, if its name does not resolve there
)
COLLECTIVE_PHASES = ("train", "report")  # phases in which a rank waits for the others
DESCRIPTIONS = {"": "starting", "wait": "waiting for a sample", "save": "saving a checkpoint", "end": "ending"}
CurrentPhase = Callable[[], tuple[str, float]]  # the phase at the moment and for how many seconds: PhaseTimer.current


class HangDetector:
    """Watches the collective phases of this rank; does nothing with one learner."""

    def __init__(
        self, allreduce: Allreduce, seconds: float, current_phase: CurrentPhase, on_hang: Callable[[], object]
    ) -> None:
        """`on_hang` is called before this process exits; it must not wait for other ranks."""
        self._seconds, self._current_phase, self._on_hang = seconds, current_phase, on_hang
        self._rank = allreduce.rank
        self._others: dict[int, dict[str, Any]] = {}
        if allreduce.size == 1:
            return
        one_host = World.from_environment().local_size == allreduce.size
        host = os.environ.get(ADDRESS_ENV) or socket.gethostname()
        listener = _listen("127.0.0.1" if one_host else os.environ.get(ADDRESS_ENV, ""), 2 * allreduce.size)
        own = {"host": host, "port": listener.getsockname()[1], "pid": os.getpid(), "key": secrets.token_hex(16)}
        ranks = [json.loads(data) for data in allreduce.gather(json.dumps(own).encode())]
        self._key = ranks[0]["key"]
        self._others = {rank: peer for rank, peer in enumerate(ranks) if rank != self._rank}
        for rank, peer in self._others.items():
            peer["name"] = f"learner {rank} (process {peer['pid']} on {peer['host']})"
            peer["address"] = "127.0.0.1" if peer["host"] == own["host"] else peer["host"]
        threading.Thread(target=self._serve, args=[listener], name="hang-answers", daemon=True).start()
        threading.Thread(target=self._watch, name="hang-watch", daemon=True).start()

    def query(self, rank: int) -> dict[str, Any] | None:
        """The phase of another rank and its seconds so far, or None if it does not answer."""
        peer = self._others[rank]
        try:
            with socket.create_connection(
                (peer["address"], peer["port"]), timeout=ANSWER_TIMEOUT_SECONDS
            ) as connection:
                connection.settimeout(ANSWER_TIMEOUT_SECONDS)
                connection.sendall(self._key.encode())
                return dict(json.loads(connection.recv(1000)))
        except (OSError, ValueError):
            return None

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # no descriptors left at the moment
                time.sleep(0.1)
                continue
            with contextlib.suppress(OSError), connection:
                connection.settimeout(KEY_TIMEOUT_SECONDS)  # a stranger must not keep the others waiting
                if hmac.compare_digest(connection.recv(64), self._key.encode()):
                    phase, seconds = self._current_phase()
                    connection.sendall(json.dumps({"phase": phase, "seconds": seconds}).encode())

    def _watch(self) -> None:
        while True:
            time.sleep(1)
            phase, waited = self._current_phase()
            if phase not in COLLECTIVE_PHASES or waited < self._seconds:
                continue
            culprits = self._culprits()
            if not culprits and waited > max(STUCK_SECONDS, 3 * self._seconds):
                culprits = [
                    "all others, which are in the same call as this one: the network between them, or MPI, is stuck"
                ]
            if culprits:
                for culprit in culprits:
                    logger.warning("waits for %s, for %.0f s; ending the run (--hang_timeout_seconds)", culprit, waited)
                self._on_hang()
                time.sleep(EXIT_DELAY_SECONDS)
                os._exit(EXIT_HUNG)

    def _culprits(self) -> list[str]:
        lines = []
        for rank, peer in self._others.items():
            state = self.query(rank)
            if state is None:
                lines.append(f"{peer['name']}, which does not answer: stopped, hanging, or cut off")
            elif state["phase"] not in COLLECTIVE_PHASES and state["seconds"] > self._seconds:
                phase = DESCRIPTIONS.get(state["phase"], state["phase"])
                lines.append(f'{peer["name"]}, which has been busy with "{phase}" for {state["seconds"]:.0f} s')
        return lines


def _listen(address: str, backlog: int) -> socket.socket:
    """A port of this host's address for the other learners; of all its addresses if that one is outside (NAT)."""
    try:
        return socket.create_server((address, 0), backlog=backlog)
    except OSError:
        return socket.create_server(("", 0), backlog=backlog)
