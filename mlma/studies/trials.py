"""The trials of a study that searches with Optuna: when the next one begins, and which are stopped before their end.

A trial is a member. Each time it has trained for `every_frames` more, its score is reported. What Optuna answers is in
the same line of the journal as the report, so a controller that starts again has the same trials, and stops none twice.
Not here: what Optuna decides (mlma/studies/optuna_search.py), processes (mlma/studies/controller.py).
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlma.studies.definition import Definition
from mlma.studies.journal import Journal, Member, read_events
from mlma.studies.local_runs import known_flags
from mlma.studies.overview import level_of
from mlma.studies.run_files import frame_budget, number, read_rows, score_of
from mlma.utils.code_layout import install_hint, setup_hint


def check_is_installed(definition: Definition) -> None:
    """ValueError in one line, with the command that installs what is missing."""
    if definition.optuna is None:
        return
    for package in ("optuna", *(["cmaes"] if definition.optuna.sampler == "cmaes" else [])):
        if importlib.util.find_spec(package) is None:
            what = "search = optuna" if package == "optuna" else "optuna: sampler = cmaes"
            raise ValueError(
                f"{what}: needs the package {package}; install it with: {setup_hint('install-optuna')}, or "
                f"{install_hint(package)}"
            )


class Trials:
    """Asks Optuna for members, and which of them to stop."""

    def __init__(self, definition: Definition, journal: Journal, show: Callable[[str], object]) -> None:
        assert definition.optuna
        self._definition, self._journal, self._show = definition, journal, show
        self._every = definition.optuna.every_frames
        self._read: dict[str, tuple[int, int]] = {}  # run -> size and time of what was read of its metrics.csv
        search = importlib.import_module("mlma.studies.optuna_search").OptunaSearch
        self._search = search(definition.vary, definition.optuna, definition.options.search_seed)
        for event in read_events(definition.folder):
            self._repeat(event)

    @property
    def left(self) -> int:
        """How many trials have not been asked for yet."""
        return max(0, self._definition.options.trials - len(self._journal.members))

    def ask(self) -> Member:
        """The next trial: a new member."""
        values = self._search.ask() | self._definition.seed_of_trials()
        self._journal.add("member", len(self._journal.members), values=values)
        return self._journal.members[-1]

    def compare(self, member: Member, may_stop: bool = True) -> bool:
        """Reports what the member has measured since the last time. Whether it is to be stopped: then it counts so."""
        for step, frames, score in self._new_reports(member):
            is_bad = self._search.report(member.number, step, score) and may_stop
            self._journal.add("reported", member.number, step=step, frames=frames, score=score, pruned=is_bad)
            if is_bad:
                self._search.stopped(member.number)
                what = known_flags(member.values)
                self._show(
                    f"{member.name} has a low score at {frames:,.0f} frames, {score:.5g}: it saves and ends: {what}"
                )
                return True
        return False

    def finish(self, member: Member) -> float | None:
        """Reports the rest of a member that has trained to its end. Its score; None without any."""
        self.compare(member, may_stop=False)
        run = self._folder(member)
        scores = [score_of(row, self._definition.metric, level_of(self._definition, member)) for row in read_rows(run)]
        score = next((each for each in reversed(scores) if math.isfinite(each)), None)
        if score is None:
            self._show(f"{member.name} has no {self._definition.metric}, and counts for nothing in the search")
        self._search.finished(member.number, score)
        return score

    def _repeat(self, event: dict[str, Any]) -> None:
        """Tells Optuna what has happened under an earlier controller."""
        match event["event"]:
            case "member":
                self._search.ask(event["values"])
            case "reported":
                self._search.report(event["member"], event["step"], event["score"])
                if event["pruned"]:
                    self._search.stopped(event["member"])
            case "ended" if event["outcome"] == "finished":
                self._search.finished(event["member"], event["score"])

    def _new_reports(self, member: Member) -> Iterator[tuple[int, float, float]]:
        """(number, frames, score): of each multiple of `every_frames`, the first row of metrics.csv from there on."""
        run = self._folder(member)
        if not self._every or not self._has_news(run):
            return
        step, end = member.reports + 1, frame_budget(run)
        level = level_of(self._definition, member)
        for row in read_rows(run):
            frames, score = number(row.get("frames")), score_of(row, self._definition.metric, level)
            while math.isfinite(score) and frames >= step * self._every and step * self._every < end:
                yield step, frames, score
                step += 1

    def _has_news(self, run: Path) -> bool:
        try:
            status = os.stat(run / "metrics.csv")
        except OSError:
            return False
        now = status.st_size, status.st_mtime_ns
        before, self._read[run.name] = self._read.get(run.name), now
        return before != now

    def _folder(self, member: Member) -> Path:
        return self._definition.folder / "members" / member.run
