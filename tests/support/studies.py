"""Files of studies in tests: the definition, what the journal has, and what a population must have left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlma.learning.checkpoint_file import load_checkpoint
from mlma.studies.journal import read_events
from mlma.studies.run_files import newest_checkpoint, read_description
from tests.support.runs import Process, wait_for

POPULATION = """
at_once = {at_once}
[flags]
total_environment_frames = {frames}
[vary]
learning_rate = [1e-3, 1e-5, 1e-7]
[pbt]
every_frames = {every}
burn_in_frames = 10_000
quantile = 0.34
perturb_probability = 1
"""


def write(folder: Path, text: str) -> Path:
    """The file of a study whose folder is STUDY."""
    path = folder / "study.toml"
    path.write_text(f'folder = "{folder}/STUDY"\n{text}')
    return path


def events(file: Path, *kinds: str) -> list[dict[str, Any]]:
    return [event for event in read_events(file.parent / "STUDY") if event["event"] in kinds]


def frames(file: Path, run: str) -> int:
    """Those of a run's last checkpoint."""
    path = newest_checkpoint(file.parent / "STUDY" / "members" / run)
    return int(read_description(path)["frames"]) if path else 0


def until(file: Path, happened: Callable[[], Any], process: Process, seconds: float = 60) -> None:
    outputs = file.parent / "STUDY" / "output"

    def explain() -> str:
        return "\n".join([process.text(), *(f"{path}: {path.read_text()[-2000:]}" for path in outputs.glob("*.log"))])

    wait_for(lambda: bool(happened()), seconds, explain, process)


def has_copies(file: Path, count: int) -> bool:
    return len(events(file, "exploit")) >= count


def check_population(file: Path, budget: int) -> None:
    """No copy was made twice, or from something else than the journal says, and nothing was lost."""
    members = file.parent / "STUDY" / "members"
    copies = events(file, "exploit")
    assert copies
    last = [0, 0, 0]
    for copy in copies:
        last[copy["member"]] += 1
        assert copy["generation"] == last[copy["member"]], "a copy was made twice, or skipped"
        assert copy["parent_score"] > copy["score"] and copy["parent"] != copy["member"]
        old, new = copy["changes"]["learning_rate"]
        parent = copy["parent_values"]["learning_rate"]
        assert new in (pytest.approx(parent * 1.2, rel=1e-5), pytest.approx(parent / 1.2, rel=1e-5)), old
    runs = {
        f"0{member}" + (f".{generation}" if generation else "")
        for member in range(3)
        for generation in range(last[member] + 1)
    }
    assert {path.name for path in members.iterdir()} == runs
    for member, generation in enumerate(last):
        run = f"0{member}" + (f".{generation}" if generation else "")
        assert frames(file, run) == budget
        path = newest_checkpoint(members / run)
        assert path
        variables, _ = load_checkpoint(path)
        assert variables["weights"].tolist() == [budget / 1000] * 3, "frames and weights are of different runs"
        config = json.loads((members / run / "config.json").read_text())
        assert config["learning_rate"] == next(
            (copy["values"]["learning_rate"] for copy in reversed(copies) if copy["member"] == member),
            [1e-3, 1e-5, 1e-7][member],
        )
