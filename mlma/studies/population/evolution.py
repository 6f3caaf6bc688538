"""A population at work: when a member is compared with the others, and how a copy comes about.

A copy is a new run in a folder of its own that begins with the checkpoint of its parent. It is prepared first; then a
line in the journal makes it count; then the controller ends the former run and starts the new one. What was prepared
without a line is removed, so nothing is done twice, and nothing half.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mlma.core.config import flag_table
from mlma.studies.definition import Definition
from mlma.studies.journal import Journal, Member, run_name
from mlma.studies.population.rules import choose_parent, explore
from mlma.studies.run_files import Saved, frame_budget, newest_checkpoint, saved
from mlma.utils.code_layout import ROOT
from mlma.utils.own_files import make_own_folder

ADOPT_SECONDS = 600.0
RETIRED = "checkpoint-*.npz"  # of a run that a copy has replaced; its best.npz stays


class Evolution:
    """Compares members of a population and prepares copies."""

    def __init__(self, definition: Definition, journal: Journal, show: Callable[[str], object]) -> None:
        assert definition.pbt
        self._definition, self._journal, self._show, self._pbt = definition, journal, show, definition.pbt
        self._level = str(definition.flags.get("level_name", flag_table()["level_name"].default))
        self._seen: dict[str, Path | None] = {}  # run -> the checkpoint at its last comparison
        self._remove_unfinished()

    def compare(self, member: Member) -> bool:
        """Whether the member has reached its next comparison, which is done by then; `member` is its state after."""
        path = newest_checkpoint(self._folder(member))
        if path is None or path == self._seen.get(member.run):
            return False
        self._seen[member.run] = path
        now = self._saved(member, path)
        due = max(self._pbt.burn_in_frames, member.compared_at + self._pbt.every_frames)
        if now is None or now.frames < due:
            return False
        scores = self._scores()
        parent = None
        if not any(map(math.isnan, (now.score, *scores.values()))):
            random_numbers = self._random_numbers(member)
            number = choose_parent(member.number, scores, self._donors(), self._pbt, random_numbers)
            parent = None if number is None else self._journal.members[number]
        if parent is None or not self._copy(member, parent, now.frames, now.score):
            score = None if math.isnan(now.score) else now.score
            self._journal.add("kept", member.number, generation=member.generation, frames=now.frames, score=score)
        return True

    def replace(self, member: Member) -> None:
        """Copies the best member over one that was given up, if there is one."""
        donors = self._donors() - {member.number}
        scores = {each: score for each, score in self._scores().items() if each in donors and not math.isnan(score)}
        if scores:
            self._copy(member, self._journal.members[max(scores, key=lambda each: scores[each])], 0.0, math.nan)

    def _copy(self, member: Member, parent: Member, frames: float, score: float) -> bool:
        source = self._saved(parent, newest_checkpoint(self._folder(parent)))
        if source is None or math.isnan(source.score):
            return False
        generation, random_numbers = member.generation + 1, self._random_numbers(member)
        target = self._members / run_name(member.number, generation)
        shutil.rmtree(target, ignore_errors=True)
        seed = random_numbers.randrange(2**31)
        if not self._adopt(source, target / "checkpoints" / source.path.name, seed):
            return False
        values = explore(parent.values, self._definition.vary, flag_table(), self._pbt, random_numbers)
        values |= {name: value for name, value in member.values.items() if name not in self._definition.vary}
        changes = {name: [member.values[name], values[name]] for name in self._definition.vary}
        self._journal.add(
            "exploit",
            member.number,
            generation=generation,
            frames=frames,
            score=None if math.isnan(score) else score,
            parent=parent.number,
            parent_generation=parent.generation,
            parent_frames=source.frames,
            parent_score=source.score,
            parent_values=parent.values,
            changes=changes,
            values=values,
        )
        words = ", ".join(f"{name} {old:g} -> {new:g}" for name, (old, new) in changes.items())
        self._show(f"{member.name} (score {score:.5g}) copies {parent.name} (score {source.score:.5g}): {words}")
        return True

    def retire(self, member: Member) -> None:
        """Removes the checkpoints of the run that its copy has replaced."""
        for path in (self._members / run_name(member.number, member.generation - 1) / "checkpoints").glob(RETIRED):
            path.unlink(missing_ok=True)

    def _adopt(self, source: Saved, target: Path, seed: int) -> bool:
        """Writes the checkpoint of a copy. Its source is held by a link of ours: the parent soon deletes its own."""
        held = target.parents[1] / "parent.npz"
        try:
            make_own_folder(held.parent)
            os.link(source.path, held)
        except OSError as problem:
            self._show(f"no copy of {source.path}: {problem}")
            return False
        command = [sys.executable, "-m", "mlma.studies.population.adopt", str(held.absolute()), str(target.absolute())]
        try:
            done = subprocess.run(
                [*command, str(seed)], cwd=ROOT, capture_output=True, text=True, timeout=ADOPT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            self._show(f"no copy of {source.path}: {problem}")
            return False
        finally:
            held.unlink(missing_ok=True)
        if done.returncode:
            self._show(f"no copy of {source.path}: {done.stderr.strip()}")
        return done.returncode == 0

    def _remove_unfinished(self) -> None:
        """Removes copies that were prepared but do not count, since the controller was killed in between."""
        for member in self._journal.members:
            shutil.rmtree(self._members / run_name(member.number, member.generation + 1), ignore_errors=True)

    def _scores(self) -> dict[int, float]:
        """The score of each member that has not been given up, at its last checkpoint."""
        scores: dict[int, float] = {}
        for member in self._journal.members:
            if member.outcome == "gave_up":
                continue
            found = self._saved(member, newest_checkpoint(self._folder(member)))
            score = found.score if found else math.nan
            inherited = math.nan if member.score is None else member.score
            scores[member.number] = inherited if math.isnan(score) else score
        return scores

    def _donors(self) -> set[int]:
        """Members with frames left: a copy of a finished one would have nothing to train."""
        found = set()
        for member in self._journal.members:
            checkpoint = self._saved(member, newest_checkpoint(self._folder(member)))
            if member.outcome != "gave_up" and checkpoint and checkpoint.frames < frame_budget(self._folder(member)):
                found.add(member.number)
        return found

    def _random_numbers(self, member: Member) -> random.Random:
        """The same for the same decision, so that a controller that starts again decides the same."""
        return random.Random(f"{self._definition.options.search_seed} {len(self._journal.exploits)} {member.number}")

    def _saved(self, member: Member, path: Path | None) -> Saved | None:
        return saved(path, self._definition.metric, str(member.values.get("level_name", self._level)))

    @property
    def _members(self) -> Path:
        return self._definition.folder / "members"

    def _folder(self, member: Member) -> Path:
        return self._members / member.run
