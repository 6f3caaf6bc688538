"""The places of a study on hosts: which member trains on which rows of the CSV, and which places are lost for now.

A member is a run of the frontend, watched by a process of its own (mlma/studies/placement/watcher.py). Runs go on when
the controller is gone; the next one takes them over, and ends those that no member has any more. Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlma.cluster.options import parse_invocation
from mlma.cluster.planning.workers_csv import Worker, csv_warnings, read_workers
from mlma.core.config import flag_table
from mlma.studies.definition import Definition, frontend_table, to_arguments
from mlma.studies.journal import Journal, Member
from mlma.studies.local_runs import EXIT_LOST, MemberProcess
from mlma.studies.placement.dealing import deal, to_csv
from mlma.studies.run_files import hosts_in_use, is_watched
from mlma.utils.atomic_file import atomic_write
from mlma.utils.own_files import make_own_folder

STOP_SECONDS = 300.0  # to save a checkpoint, end on all hosts, and copy what is left
CLEANING_SECONDS = 60.0  # between two tries to end what is left of earlier runs; at first they are waited for
LOST_SECONDS, MAX_LOST_SECONDS = 20.0, 600.0  # until a lost place is tried again; doubled each time
PATHS = ("ssh_key_file", "known_hosts")  # flags of the frontend


@dataclasses.dataclass(frozen=True)
class Order:
    """What a watcher is to do, as its argument."""

    run: str  # the folder here
    logdir: str  # as the hosts see it
    working_folder: str  # from which the frontend is called, so that the two are the same
    frontend: tuple[str, ...]  # flags of the frontend
    training: tuple[str, ...] = ()  # flags of the run
    copy_seconds: float = 10.0
    lost_seconds: float = 300.0
    keep_checkpoints: int = 3
    sync_lock: str = ""  # file whose lock is held while code is copied to hosts; empty: it is not
    only_end: bool = False


class WatcherProcess(MemberProcess):
    """The watcher of a run on hosts."""

    def __init__(self, order: Order, output: Path) -> None:
        super().__init__(["mlma.studies.placement.watcher", json.dumps(dataclasses.asdict(order))], output)

    def stop(self, replaced: bool = False) -> None:
        """See MemberProcess. Without this word, the run goes on."""
        self._let_go(b"replaced" if replaced else b"stop", STOP_SECONDS)


class HostPlaces:
    """Starts members on the rows of the CSV."""

    def __init__(self, definition: Definition, journal: Journal, show: Callable[[str], object]) -> None:
        self._definition, self._journal, self._show = definition, journal, show
        self._rows = deal_rows(definition, max(len(journal.members), definition.options.trials), show)
        self._held: dict[int, int] = {}  # place -> the member there
        self._lost: dict[int, tuple[int, int, float]] = {}  # place -> the member that lost it, times, when to try again
        self._cleaners: dict[str, WatcherProcess] = {}
        self._next_cleaning = 0.0
        self._frontend = _frontend_flags(definition)

    @property
    def usable(self) -> int:
        """How many members can train at the moment."""
        now, count = time.monotonic(), len(self._rows)
        left = count - sum(again > now for _, _, again in self._lost.values())
        return min(left, self._definition.options.at_once or count)

    def start(self, member: Member, flags: dict[str, Any]) -> tuple[MemberProcess, dict[str, Any]] | None:
        """The process of a member, and what the journal should know; None if it has to wait."""
        run = self._run(member.run)
        if is_watched(run):  # by the watcher of an earlier controller, which ends
            return None
        place = self._choose(member)
        if place is None:
            return None
        self._held[place] = member.number
        for other in [each for each, (loser, _, _) in self._lost.items() if loser == member.number and each != place]:
            self._lost[other] = -1, *self._lost[other][1:]  # it is not needed for this member any more
        make_own_folder(run)
        (run / "cluster").mkdir(mode=0o700, exist_ok=True)
        with atomic_write(run / "cluster" / "workers.csv", mode=0o600) as file:
            file.write(to_csv(self._rows[place]).encode())
        order, folder = self._order(member.run, flags)
        process = WatcherProcess(order, self._output(member.run))
        hosts = list(dict.fromkeys(worker.alias or worker.ip for worker in self._rows[place]))
        return process, {"place": place, "hosts": hosts, "folder": folder}

    def ended(self, member: Member, code: int) -> None:
        """A member has ended, and its place is free, unless its host does not answer."""
        place = next(each for each, number in self._held.items() if number == member.number)
        del self._held[place]
        if code != EXIT_LOST:
            self._lost.pop(place, None)
            return
        times = self._lost.get(place, (0, 0, 0.0))[1] + 1
        wait = min(MAX_LOST_SECONDS, LOST_SECONDS * 2 ** (times - 1))
        self._lost[place] = member.number, times, time.monotonic() + wait

    def tend(self, current: set[str]) -> None:
        """Ends on their hosts what is left of runs that are not `current` any more. The first time, waits for it."""
        for run, process in list(self._cleaners.items()):
            if process.poll() is not None:
                del self._cleaners[run]
        if time.monotonic() < self._next_cleaning:
            return
        is_first, self._next_cleaning = not self._next_cleaning, time.monotonic() + CLEANING_SECONDS
        try:
            runs = sorted(os.listdir(self._definition.folder / "members"))
        except OSError:
            runs = []
        for run in runs:
            folder = self._run(run)
            if run not in current and run not in self._cleaners and hosts_in_use(folder) and not is_watched(folder):
                order = dataclasses.replace(self._order(run, {})[0], only_end=True)
                self._cleaners[run] = WatcherProcess(order, self._output(run))
        while is_first and self._cleaners and time.monotonic() < self._next_cleaning:
            time.sleep(0.2)
            self._cleaners = {run: each for run, each in self._cleaners.items() if each.poll() is None}

    def close(self) -> None:
        """Waits for what is being ended."""
        end = time.monotonic() + CLEANING_SECONDS
        while any(process.poll() is None for process in self._cleaners.values()) and time.monotonic() < end:
            time.sleep(0.2)

    def _choose(self, member: Member) -> int | None:
        """The place where the member has trained, if it is free, or another one.

        A lost place is for the member that lost it, since that may still train there.
        """
        now = time.monotonic()
        free = []
        for place in set(range(len(self._rows))) - self._held.keys():
            loser, _, again = self._lost.get(place, (-1, 0, 0.0))
            if again <= now and loser in (-1, member.number):
                free.append(place)
        of_others = {each.place for each in self._journal.members if not each.outcome and each is not member}
        return min(free, key=lambda place: (place != member.place, place in of_others, place), default=None)

    def _order(self, run: str, flags: dict[str, Any]) -> tuple[Order, str]:
        """What the watcher of a run is to do, and the study's folder as the hosts see it."""
        options, here = self._definition.options, self._definition.folder
        folder = self._journal.folder_on_hosts or str(here)
        if folder.startswith("/") or ".." in Path(folder).parts or not str(here.absolute()).endswith(f"/{folder}"):
            folder = str(here.absolute())
        working_folder = "/" if folder.startswith("/") else str(here.absolute()).removesuffix(f"/{folder}") or "/"
        lock = str((here / ".sync").absolute()) if self._definition.cluster.get("sync") else ""
        return Order(
            run=str(self._run(run).absolute()),
            logdir=f"{folder}/members/{run}",
            working_folder=working_folder,
            frontend=(*self._frontend, f"--tmux_sess={here.absolute().name}-{run}"),
            training=tuple(to_arguments(flags)),
            copy_seconds=options.copy_seconds,
            lost_seconds=options.lost_seconds,
            keep_checkpoints=int(flags.get("keep_checkpoints", flag_table()["keep_checkpoints"].default)),
            sync_lock=lock,
        ), folder

    def _run(self, name: str) -> Path:
        return self._definition.folder / "members" / name

    def _output(self, run: str) -> Path:
        return self._definition.folder / "output" / f"{run}.log"


def deal_rows(definition: Definition, members: int, show: Callable[[str], object]) -> list[list[Worker]]:
    """The rows of each place. ValueError in one line if they are too few, or if the frontend would refuse the flags."""
    options = definition.options
    workers = read_workers(options.workers_csv_path)
    for line in csv_warnings(options.workers_csv_path, workers):
        show(line)
    rows = deal(workers, options, members)
    parse_invocation(["up", *_frontend_flags(definition), *to_arguments(definition.flags)])
    return rows


def _frontend_flags(definition: Definition) -> list[str]:
    """As they are typed, with paths that do not depend on where the frontend is called."""
    table, given = frontend_table(), dict(definition.cluster)
    given.pop("sync", None)
    for name in PATHS:
        if given.get(name):
            given[name] = str(Path(given[name]).expanduser().absolute())
    return [f"--{name}={table[name].format(value)}" for name, value in given.items()]
