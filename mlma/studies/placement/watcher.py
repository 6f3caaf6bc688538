"""Watches a member on hosts: `python -m mlma.studies.placement.watcher ORDER`, a process of its own for each member.

It starts the run by the frontend's `up`, copies checkpoints and metrics to this machine as they appear, and ends it by
`down`. Standard input is the bond to the controller. At the word "stop" the run saves and ends; "replaced" also removes
its checkpoints on the host. When the input ends without a word, the controller is gone: the run goes on, and the next
controller's watcher takes it over. Exit code 0 if the run is over, 75 if the host of its first learner is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mlma.cluster.commands.down import stop_all
from mlma.cluster.commands.fetch import fetch_once
from mlma.cluster.commands.status import RESTARTED_BY_UP, query_hosts
from mlma.cluster.commands.status_table import WorkerRow
from mlma.cluster.context import Context, host_errors, make_context
from mlma.cluster.options import parse_invocation
from mlma.studies.local_runs import EXIT_LOST
from mlma.studies.placement.host_files import NotReachedError, delete_checkpoints, prune_here, send_newer
from mlma.studies.placement.host_places import Order
from mlma.studies.run_files import WATCH_LOCK, hosts_in_use
from mlma.utils.child_process import EXIT_USAGE
from mlma.utils.code_layout import ROOT
from mlma.utils.own_files import open_own

FRONTEND = ROOT / "run_experiment_mm_raw.py"
REPAIR_SECONDS = 60.0  # between two tries to start actors that are missing
LEFT = 0  # exit code after the controller is gone


class Bond:
    """What the controller says on standard input."""

    def __init__(self) -> None:
        self.word = ""
        self.is_over = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        data = b""
        while part := os.read(0, 100):
            data += part
        self.word = data.decode(errors="replace").strip()
        self.is_over.set()


class Watcher:
    """Watches one run."""

    def __init__(self, order: Order, bond: Bond) -> None:
        self._order, self._bond, self._run = order, bond, Path(order.run)
        self._csv = f"--workers_csv_path={self._run}/cluster/workers.csv"
        self._unreachable_since: float | None = None
        self._next_repair = time.monotonic() + REPAIR_SECONDS
        self._cleaned: set[str] = set()  # hosts of earlier places on which nothing is left

    def watch(self) -> int:
        """The exit code."""
        try:
            self._send_newer()
        except NotReachedError as problem:
            print(problem, flush=True)
            return EXIT_LOST
        if self._up() == EXIT_USAGE:
            return EXIT_USAGE
        while not self._bond.is_over.is_set():
            with self._context() as context:
                code = self._look_until_something_is_missing(context)
            if code is not None:
                return code
            if not self._bond.is_over.is_set():
                self._up()
        if not self._bond.word:
            print("the controller is gone; the run goes on", flush=True)
            return LEFT
        return self.end()

    def end(self) -> int:
        """Lets the run save and end on all hosts, and copies what is new."""
        code = self._frontend("down")
        with self._context() as context:
            self._copy(context)
            if self._bond.word == "replaced":
                delete_checkpoints(context, self._order.logdir)
        return code if self._order.only_end else 0

    # -- one look

    def _look_until_something_is_missing(self, context: Context) -> int | None:
        """An exit code if this is over."""
        while not self._bond.is_over.is_set():
            code, is_missing = self._look(context)
            if code is not None or is_missing:
                return code
            self._bond.is_over.wait(self._order.copy_seconds)
        return None

    def _look(self, context: Context) -> tuple[int | None, bool]:
        """An exit code if this is over, and whether `up` should start what is missing."""
        rows = query_hosts(context, context.hosts.request).rows
        learner = rows[0]
        if learner.state in ("unreachable", "pending"):
            now = time.monotonic()
            if self._unreachable_since is None:
                self._unreachable_since = now
                print(f"no answer: {learner.problem}", flush=True)
            return (EXIT_LOST if now - self._unreachable_since > self._order.lost_seconds else None), False
        if self._unreachable_since is not None:
            print(f"{learner.host} answers again", flush=True)
            self._unreachable_since = None
        copied = self._copy(context)
        if learner.state == "done":
            if copied:
                self._frontend("down")
                return 0, False
        elif learner.state in ("failed", "off", *RESTARTED_BY_UP):
            self._frontend("down")
            print(f"learners {learner.state}: {learner.problem}", flush=True)
            return 1, False
        return None, self._is_to_repair(context, rows)

    def _is_to_repair(self, context: Context, rows: list[WorkerRow]) -> bool:
        """Whether actors are missing that `up` could start. Ends what is left at an earlier place meanwhile."""
        if time.monotonic() < self._next_repair:
            return False
        self._next_repair = time.monotonic() + REPAIR_SECONDS
        former = context.state.contacted_hosts.keys() - context.plan.hosts.keys() - self._cleaned
        if former:
            answers = stop_all(context, former, final=True)
            self._cleaned |= former - host_errors(answers).keys()
        return any(row.state in ("off", *RESTARTED_BY_UP) for row in rows)

    def _copy(self, context: Context) -> bool:
        """Copies what is new on the first learner's host. Whether that was possible."""
        head = context.plan.head
        if head.local:
            return True
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = fetch_once(context, head, self._run)
        if code:
            print(said.getvalue().strip(), flush=True)
        prune_here(self._run, self._order.keep_checkpoints)
        return code == 0

    # -- the frontend

    def _up(self) -> int:
        """Starts what does not run."""
        order = self._order
        arguments = [self._csv, *order.training]
        with contextlib.ExitStack() as stack:
            if order.sync_lock:
                lock = stack.enter_context(open_own(Path(order.sync_lock), os.O_RDWR | os.O_CREAT, 0o600))
                fcntl.flock(lock, fcntl.LOCK_EX)
                arguments.append("--sync")
            code = self._frontend("up", *arguments)
            if code == EXIT_USAGE and hosts_in_use(self._run):  # it is up with other flags: fewer frames
                self._frontend("down")
                code = self._frontend("up", *arguments)
        self._next_repair = time.monotonic() + REPAIR_SECONDS
        return code

    def _frontend(self, command: str, *arguments: str) -> int:
        argv = [sys.executable, str(FRONTEND), command, *arguments, *self._order.frontend]
        return subprocess.run(
            [*argv, f"--logdir={self._order.logdir}"], stdin=subprocess.DEVNULL, check=False
        ).returncode

    @contextlib.contextmanager
    def _context(self, *arguments: str) -> Iterator[Context]:
        words = [*(arguments or ("status",)), *self._order.frontend, f"--logdir={self._order.logdir}"]
        context = make_context(parse_invocation(words))
        context.hosts.shows_progress = False
        try:
            yield context
        finally:
            context.hosts.close()

    def _send_newer(self) -> None:
        """Sends the files here to the host if it has none, or older ones: of a copy, or of another place."""
        with self._context("dry-run", self._csv, *self._order.training) as context:
            if not context.plan.head.local and send_newer(context, self._order.logdir, self._run, only_ask=True):
                if hosts_in_use(self._run):  # what runs there has older weights
                    self._frontend("down")
                send_newer(context, self._order.logdir, self._run)


def main(argv: list[str]) -> int:
    """The exit code."""
    order = Order(**json.loads(argv[0]))
    os.chdir(order.working_folder)
    with open_own(Path(order.run) / WATCH_LOCK, os.O_RDWR | os.O_CREAT, 0o600) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{order.run}: is watched already", flush=True)
            return 1
        watcher = Watcher(order, Bond())
        try:
            return watcher.end() if order.only_end else watcher.watch()
        except ValueError as mistake:
            print(mistake, flush=True)
            return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
