"""The journal of a study, and the state that follows from it: members, their values and runs, what became of them.

STUDY/journal.jsonl has a line of JSON for each event, written whole or not at all. A decision counts once its line is
there, and what it asks for is done afterwards, so a controller that is killed in between does it when it starts again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

from mlma.utils.input_file import read_input_file
from mlma.utils.own_files import append_lines

JOURNAL = "journal.jsonl"
MAX_JOURNAL_BYTES = 2**30


@dataclasses.dataclass
class Member:
    """A member as the journal has it."""

    number: int
    values: dict[str, Any]  # of the flags that differ between members, as they are now
    generation: int = 0  # how often it has copied another one; each generation is a run of its own
    compared_at: float = 0.0  # frames at the last comparison of a population
    score: float | None = None  # what it had copied, until its own run has a score
    # of its last run: finished, stopped, turn, failed, lost, gave_up, replaced, pruned; "" while it may be running
    outcome: str = ""
    place: int = -1  # on the rows of a CSV, where it was started last
    reports: int = 0  # of a trial to Optuna

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"{self.number:02d}"

    @property
    def run(self) -> str:
        """The name of its folder in STUDY/members."""
        return run_name(self.number, self.generation)


def run_name(number: int, generation: int) -> str:
    """The folder of a generation."""
    return f"{number:02d}.{generation}" if generation else f"{number:02d}"


class Journal:
    """Appends events and keeps the state that follows from all of them."""

    def __init__(self, folder: Path) -> None:
        self.members: list[Member] = []
        self.exploits: list[dict[str, Any]] = []
        self.folder_on_hosts = ""  # of a study on the rows of a CSV, as members were started there
        self._path = folder / JOURNAL
        for event in read_events(folder):
            self._apply(event)

    def add(self, event: str, member: int, **values: Any) -> None:
        """Writes an event to the disk; then it counts."""
        written = {"event": event, "member": member, **values, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        append_lines(self._path, (json.dumps(written) + "\n").encode())
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._apply(written)

    def _apply(self, event: dict[str, Any]) -> None:
        if event["event"] == "member":
            self.members.append(Member(event["member"], event["values"]))
            return
        member = self.members[event["member"]]
        match event["event"]:
            case "started":
                member.outcome = ""
                member.place = event.get("place", -1)
                self.folder_on_hosts = event.get("folder", self.folder_on_hosts)
            case "ended":
                if event["generation"] == member.generation:  # not a run that an exploit has replaced
                    member.outcome = event["outcome"]
            case "reported":
                member.reports = event["step"]
                if event["pruned"]:
                    member.outcome = "pruned"
            case "kept":
                member.compared_at = event["frames"]
            case "exploit":
                member.values, member.generation = event["values"], event["generation"]
                member.compared_at, member.score = event["parent_frames"], event["parent_score"]
                member.outcome = "replaced"
                self.exploits.append(event)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All events; none before the study has started. ValueError in one line if the journal is damaged."""
    path = folder / JOURNAL
    try:
        text = read_input_file(path, MAX_JOURNAL_BYTES).decode()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    events = []
    lines = text.split("\n")[:-1]  # what is after the last line end is a line that a crash has cut off
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            if not isinstance(event["event"], str) or not isinstance(event["member"], int):
                raise ValueError("no event of a study")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: line {number}: damaged: {error}") from None
        events.append(event)
    return events
