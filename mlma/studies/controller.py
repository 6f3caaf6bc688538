"""The controller of a study: starts members, restarts those that fail, and ends all when it is asked to.

It decides in one thread, a few times a second, and has no state but the journal and its child processes. Members that
wait for a place form a queue. Imports nothing heavy. Not here: the comparisons of a population
(mlma/studies/population/evolution.py), trials of Optuna (mlma/studies/trials.py), where and how a member is started:
on this machine (mlma/studies/local_runs.py) or on hosts (mlma/studies/placement/host_places.py).
"""

from __future__ import annotations

import importlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlma.studies.definition import MAY_GROW, Definition
from mlma.studies.journal import Journal, Member
from mlma.studies.local_runs import EXIT_LOST, SCRIPT, LocalPlaces, MemberProcess, known_flags
from mlma.studies.population.evolution import Evolution
from mlma.studies.run_files import frame_budget, hosts_in_use, newest_checkpoint, saved
from mlma.studies.trials import Trials
from mlma.utils.child_process import EXIT_USAGE

TICK_SECONDS = 0.3
SUMMARY_SECONDS = 60.0
MAX_DELAY_SECONDS = 60.0  # before a member that failed is started again
POPULATION_CHECKPOINT_SECONDS = 30.0  # unless the flag is given; members are compared at checkpoints
OVER = ("finished", "gave_up", "pruned")


class Controller:
    """Runs a study until all members are finished, have been given up, or somebody ends it."""

    def __init__(
        self, definition: Definition, journal: Journal, script: Path = SCRIPT, show: Callable[[str], object] = print
    ) -> None:
        self._definition, self._journal, self._show = definition, journal, show
        self._options = definition.options
        self._trials = Trials(definition, journal, show) if definition.optuna else None
        number = len(journal.members) + (self._trials.left if self._trials else 0)
        self._places: Any = None  # LocalPlaces or HostPlaces
        if self._options.workers_csv_path:  # with SSH
            places = importlib.import_module("mlma.studies.placement.host_places").HostPlaces
            self._places = places(definition, journal, show)
        else:
            self._places = LocalPlaces(definition, number, script)
        self._processes: dict[int, MemberProcess] = {}
        self._failures: dict[int, tuple[int, float]] = {}  # in a row, and the frames that it had reached
        self._not_before: dict[int, float] = {}
        self._signal = 0
        self._queue = [member for member in journal.members if not self._is_finished(member)]
        if definition.pbt:
            self._queue.sort(key=lambda member: self._frames(member))  # who is behind comes first
        # On hosts, before all others: who trains there still.
        self._queue.sort(key=lambda member: not hosts_in_use(self._folder(member)))
        self._evolution = Evolution(definition, journal, show) if definition.pbt else None

    def run(self) -> int:
        """The exit code: 0 if all members finished, 1 if some were given up, 128 + N if signal N ended it."""
        former = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        next_summary = time.monotonic() + SUMMARY_SECONDS
        try:
            while (self._is_somebody_left() and not self._signal) or self._processes:
                for number, process in list(self._processes.items()):
                    if (code := process.poll()) is not None:
                        self._on_end(self._journal.members[number], self._processes.pop(number), code)
                if not self._signal:
                    self._places.tend({each.run for each in self._queue} | self._training())
                    self._compare()
                    self._ask_for_trials()
                    self._start_waiting()
                else:
                    for process in self._processes.values():  # also one that was being started when the signal came
                        process.stop()
                if time.monotonic() > next_summary:
                    next_summary = time.monotonic() + SUMMARY_SECONDS
                    self._show(self._summary())
                time.sleep(TICK_SECONDS)
        finally:
            for process in self._processes.values():  # only after an error in here
                process.stop()
            self._places.close()
            for number, handler in former.items():
                signal.signal(number, handler)
        self._show(self._summary())
        if self._signal:
            return 128 + self._signal
        return 1 if any(member.outcome not in ("finished", "pruned") for member in self._journal.members) else 0

    def _on_signal(self, number: int, _: Any) -> None:
        if self._signal:
            for process in self._processes.values():
                process.kill()
            return
        self._signal = number
        self._show(f"{signal.Signals(number).name}: all members save a checkpoint and end; again ends them at once")
        for process in self._processes.values():
            process.stop()

    # -- members that wait

    def _is_somebody_left(self) -> bool:
        return bool(self._queue or (self._trials and self._trials.left))

    def _ask_for_trials(self) -> None:
        """Fills the places for which nobody is ready; a trial is chosen as late as possible, by most scores."""
        now = time.monotonic()
        ready = sum(self._not_before.get(member.number, 0.0) <= now for member in self._queue)
        while self._trials and self._trials.left and len(self._processes) + ready < self._places.usable:
            self._queue.append(self._trials.ask())
            ready += 1

    def _start_waiting(self) -> None:
        for member in list(self._queue):
            if self._signal or len(self._processes) >= self._places.usable:
                return
            if time.monotonic() < self._not_before.get(member.number, 0.0):
                continue
            flags = self._definition.flags | member.values
            if self._evolution:
                flags = {"checkpoint_every_seconds": POPULATION_CHECKPOINT_SECONDS} | flags
            started = self._places.start(member, flags)
            if started is None:
                continue
            process, where = started
            self._queue.remove(member)
            self._processes[member.number] = process
            self._journal.add("started", member.number, generation=member.generation, pid=process.pid, **where)
            on = f" on {', '.join(where['hosts'])}" if where else ""
            self._show(f"{member.name} started in {self._folder(member)}{on}: {known_flags(member.values)}")

    # -- members that train

    def _compare(self) -> None:
        for number, process in list(self._processes.items()):
            member = self._journal.members[number]
            if process.is_stopping:
                continue
            if self._trials and self._trials.compare(member):
                process.stop()
            if not self._evolution or not self._evolution.compare(member):
                continue
            places = self._places.usable - len(self._processes)
            if member.outcome == "replaced" or len(self._queue) > places:  # who waits for a place gets this one
                process.stop(member.outcome == "replaced")

    # -- members that ended

    def _on_end(self, member: Member, process: MemberProcess, code: int) -> None:
        self._places.ended(member, code)
        if member.outcome == "replaced":  # the run of its former generation; that of the copy is next
            if self._evolution:
                self._evolution.retire(member)
            self._queue.append(member)
            return
        frames = self._frames(member)
        outcome = "failed"
        if code == 0:
            outcome = "finished" if frames >= frame_budget(self._folder(member)) else "turn"
        if member.outcome == "pruned":
            outcome = "pruned"
        elif process.is_stopping and outcome != "finished":
            outcome = "stopped" if self._signal else "turn"
        elif code == EXIT_LOST:
            outcome = "lost"
        elif outcome != "finished":
            outcome = self._after_failure(member, frames, code)
        score = {"score": self._trials.finish(member)} if self._trials and outcome == "finished" else {}
        self._journal.add(
            "ended", member.number, generation=member.generation, outcome=outcome, code=code, frames=frames, **score
        )
        detail = (
            "" if outcome in ("finished", "turn", "stopped", "pruned") else f" (code {code}): {process.last_line()}"
        )
        self._show(f"{member.name} {outcome.replace('_', ' ')} at {frames:,.0f} frames{detail}")
        if outcome == "gave_up" and self._evolution and not self._signal:
            self._evolution.replace(member)
        if member.outcome not in OVER and member.outcome != "stopped":
            self._queue.append(member)

    def _after_failure(self, member: Member, frames: float, code: int) -> str:
        """`failed`, if it is started again, or `gave_up`."""
        count, before = self._failures.get(member.number, (0, -1.0))
        count = 1 if frames > before else count + 1
        self._failures[member.number] = count, frames
        self._not_before[member.number] = time.monotonic() + min(MAX_DELAY_SECONDS, 2.0 ** (count - 1))
        return "gave_up" if code == EXIT_USAGE or count > self._options.restarts else "failed"

    # -- what is known of a member

    def _training(self) -> set[str]:
        return {self._journal.members[number].run for number in self._processes}

    def _folder(self, member: Member) -> Path:
        return self._definition.folder / "members" / member.run

    def _frames(self, member: Member) -> float:
        """Those of its last checkpoint."""
        found = saved(newest_checkpoint(self._folder(member)), self._definition.metric, "")
        return found.frames if found else 0.0

    def _is_finished(self, member: Member) -> bool:
        """Whether it was, and no more frames are wanted by now."""
        if self._trials:
            return member.outcome in ("finished", "pruned")
        wanted = self._definition.flags.get(MAY_GROW, 0.0)
        return member.outcome == "finished" and self._frames(member) >= wanted

    def _summary(self) -> str:
        counts = {
            "running": len(self._processes),
            "waiting": len(self._queue),
            **{
                each.replace("_", " "): sum(member.outcome == each for member in self._journal.members)
                for each in ("finished", "pruned", "stopped", "gave_up")
            },
        }
        running = {number for number in self._processes}
        frames = [self._frames(member) for member in self._journal.members if member.number in running]
        progress = f"; frames {min(frames):,.0f} to {max(frames):,.0f}" if frames else ""
        return f"members: {', '.join(f'{count} {name}' for name, count in counts.items() if count)}{progress}"
