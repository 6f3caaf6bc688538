"""Studies that search with Optuna, without processes: which trials are asked for, and which are stopped early.

Optuna is the real one. Runs are folders whose metrics.csv the test writes.
"""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
from pathlib import Path
from typing import Any, Literal

import pytest

from mlma.studies import trials as trials_file
from mlma.studies.cli import main
from mlma.studies.definition import Definition, read_definition, save_definition
from mlma.studies.journal import JOURNAL, Journal, Member
from mlma.studies.options import OptunaOptions
from mlma.studies.optuna_search import OptunaSearch
from mlma.studies.overview import status
from mlma.studies.search import Range
from mlma.studies.trials import Trials

STUDY = """
search = "optuna"
trials = 8
[flags]
level_name = "catch"
total_environment_frames = 10_000
[vary]
learning_rate = {{ low = 1e-6, high = 1e-1, scale = "log" }}
batch_size = {batch_sizes}
[optuna]
every_frames = 1000
"""
LISTS, RANGES = "[8, 16]", "{ low = 4, high = 32 }"


def read(folder: Path, options: str = "", batch_sizes: str = LISTS) -> Definition:
    path = folder / "study.toml"
    path.write_text(f"folder = '{folder}/STUDY'\n{STUDY.format(batch_sizes=batch_sizes)}{options}\n")
    return read_definition(str(path), {}, {})


class Study:
    """A controller without processes, which may be started again."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        definition.folder.mkdir(exist_ok=True)
        self.lines: list[str] = []
        self.restart()

    def restart(self) -> None:
        self.journal = Journal(self.definition.folder)
        self.trials = Trials(self.definition, self.journal, self.lines.append)

    def train(self, member: Member, scores: list[float], last: int = 10) -> bool:
        """A report for each thousand frames; whether the member was stopped before the last one."""
        run = self.definition.folder / "members" / member.run
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.json").write_text(json.dumps({"total_environment_frames": 10_000}))
        rows = [f"{1000 * step + 7},{score}" for step, score in enumerate(scores, 1)]
        for count in range(member.reports + 1, last + 1):
            (run / "metrics.csv").write_text("\n".join(["frames,return/mean", *rows[:count]]) + "\n")
            if self.trials.compare(member):
                return True
        if last == 10:
            score = self.trials.finish(member)
            self.journal.add("ended", member.number, generation=0, outcome="finished", code=0, frames=1e4, score=score)
        return False


def rising(to: float) -> list[float]:
    return [to * step / 10 for step in range(1, 11)]


def test_trials_with_bad_curves_are_stopped_early_and_the_next_one_begins(tmp_path: Path) -> None:
    study = Study(read(tmp_path))
    for to in (4, 5, 6, 7):  # startup_trials
        assert not study.train(study.trials.ask(), rising(to))
    bad = study.trials.ask()
    assert study.train(bad, rising(1)) and (bad.outcome, bad.reports) == ("pruned", 1)
    assert not study.train(study.trials.ask(), rising(9))
    late = study.trials.ask()
    # Its best score is 4.5; the median of the others is 6 x 0.7 after 7 reports, and 6 x 0.8 after 8.
    assert study.train(late, [*rising(9)[:5], *[-1.0] * 5]) and late.reports == 8
    assert study.trials.left == 1 and study.lines[0].startswith("04 has a low score at 1,007 frames, 0.1: it saves")
    assert not study.train(study.trials.ask(), rising(20)) and study.trials.left == 0
    assert "8 of 8 trials, no controller runs; 2 pruned" in status(study.definition, study.journal)
    assert status(study.definition, study.journal).count("  pruned  ") == 2


@pytest.mark.parametrize(
    ("sampler", "pruner", "batch_sizes"),
    [
        ("tpe", "median", LISTS),
        ("random", "none", LISTS),
        ("cmaes", "median", RANGES),
        ("tpe", "successive_halving", RANGES),
    ],
)
def test_a_controller_that_starts_again_asks_and_decides_as_one_that_does_not(
    sampler: str, pruner: str, batch_sizes: str, tmp_path: Path
) -> None:
    found = []
    for restarts in (False, True):
        folder = tmp_path / str(restarts)
        folder.mkdir()
        options = f"sampler = '{sampler}'\npruner = '{pruner}'\nstartup_trials = 2\nwarmup_frames = 2000"
        definition = read(folder, options, batch_sizes)
        study, outcomes = Study(definition), []
        for number in range(0, 8, 2):  # two at once
            pair = [study.trials.ask(), study.trials.ask()]
            curves = [rising(5 - abs(number + each - 3)) for each in (0, 1)]
            was_stopped = [study.train(*each, last=4) for each in zip(pair, curves, strict=True)]
            if restarts:
                study.restart()
                pair = [study.journal.members[member.number] for member in pair]
            was_stopped = [
                before or study.train(member, curve)
                for before, member, curve in zip(was_stopped, pair, curves, strict=True)
            ]
            outcomes += was_stopped
            if restarts:
                study.restart()
        values = [member.values for member in study.journal.members]
        assert len({value["learning_rate"] for value in values}) == 8
        assert all(1e-6 <= value["learning_rate"] <= 1e-1 and value["seed"] == 1 for value in values)
        assert any(outcomes) == (pruner != "none") and not all(outcomes)
        assert all(member.reports >= 2 for member in study.journal.members)  # warmup_frames
        found.append((values, outcomes))
    assert [each["batch_size"] for each in found[0][0]] == [each["batch_size"] for each in found[1][0]]
    for first, second in zip(found[0][0], found[1][0], strict=True):
        assert first["learning_rate"] == pytest.approx(second["learning_rate"], rel=1e-3)
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_sampler_that_is_told_what_was_remembers_as_much_as_the_first_one(sampler: Literal["tpe", "cmaes"]) -> None:
    """CMA-ES counts the trials of a generation, of which there are several here."""
    vary = {"learning_rate": Range(1e-7, 1e-1, True, False), "batch_size": Range(4, 64, False, True)}
    options = OptunaOptions(sampler=sampler, pruner="none", startup_trials=2)

    def score(values: dict[str, Any]) -> float:
        return -abs(math.log10(values["learning_rate"]) + 3) - abs(values["batch_size"] - 32) / 32

    search, asked = OptunaSearch(vary, options, 1), list[dict[str, Any]]()
    for number in range(24):
        values = search.ask()
        if number % 4 == 0:
            again = OptunaSearch(vary, options, 1)
            for each, known in enumerate(asked):
                again.ask(known)
                again.finished(each, score(known))
            assert again.ask() == pytest.approx(values, rel=1e-3)
        asked.append(values)
        search.finished(number, score(values))


def test_a_report_that_the_journal_has_counts_and_one_that_it_has_not_is_made_again(tmp_path: Path) -> None:
    study = Study(read(tmp_path))
    for _ in range(4):
        study.train(study.trials.ask(), rising(5))
    bad = study.trials.ask()
    assert study.train(bad, rising(1))
    path = tmp_path / "STUDY" / JOURNAL
    whole = path.read_text()
    study.restart()
    assert study.journal.members[4].outcome == "pruned" and path.read_text() == whole
    assert study.trials.ask().number == 5
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))  # killed before that line
    study.restart()
    assert study.journal.members[4].outcome == "" and study.trials.compare(study.journal.members[4])
    times = [line.partition(', "time"')[0] for line in (whole.splitlines()[-1], path.read_text().splitlines()[-1])]
    assert times[0] == times[1]


def test_values_come_closer_to_the_best_ones(tmp_path: Path) -> None:
    study = Study(read(tmp_path, "pruner = 'none'"))
    distances = []
    for _ in range(30):
        member = study.trials.ask()
        distances.append(abs(-3 - math.log10(member.values["learning_rate"])))
        study.train(member, [-distances[-1]] * 10)
    assert statistics.fmean(distances[-10:]) < 0.6 * statistics.fmean(distances[:10])


def test_reports_that_one_row_has_passed_are_not_lost_and_empty_scores_are_none(tmp_path: Path) -> None:
    study = Study(read(tmp_path))
    member = study.trials.ask()
    run = tmp_path / "STUDY" / "members" / "00"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("frames,return/mean\n1500,\n2100,3\n4900,5\n")
    assert not study.trials.compare(member)
    lines = [json.loads(line) for line in (tmp_path / "STUDY" / JOURNAL).read_text().splitlines()]
    assert [(line["step"], line["frames"], line["score"]) for line in lines[1:]] == [
        (1, 2100, 3), (2, 2100, 3), (3, 4900, 5), (4, 4900, 5),
    ]  # fmt: skip


def test_what_would_mislead_the_search_is_refused_and_more_trials_are_not(tmp_path: Path) -> None:
    definition = read(tmp_path)
    definition.folder.mkdir()
    save_definition(definition)
    save_definition(read_definition(str(definition.folder), {"trials": 20, "at_once": 2}, {}))
    with pytest.raises(ValueError, match=r"other settings: flags\.total_environment_frames; allowed: another folder"):
        save_definition(read_definition(str(definition.folder), {}, {"total_environment_frames": 2e4}))
    with pytest.raises(ValueError, match="other settings: optuna, vary; allowed: another folder"):
        save_definition(read(tmp_path, "sampler = 'random'", RANGES))


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (("trials = 8", ""), "search: optuna needs the number of trials, such as: trials = 8"),
        (("trials = 8", "trials = 8\nseeds = 2"), "seeds: a trial of search = optuna is one member"),
        (("every_frames = 1000", ""), "optuna: every_frames: must be given"),
        (("every_frames = 1000", "pruner = 'medain'"), "optuna: --pruner=medain: must be one of median, "),
        (("every_frames = 1000", "every_frame = 1"), "optuna: every_frame: no such flag; did you mean every_frames"),
        (("every_frames", "sampler = 'cmaes'\nevery_frames"), "vary: batch_size: sampler = cmaes needs a range"),
        (("every_frames", "metric = 'score/capped'\nevery_frames"), "optuna: metric: score/capped: no scores of catch"),
        (("[optuna]", "[pbt]"), "pbt: a population changes its members itself"),
        (('search = "optuna"', 'search = "random"'), "optuna: only with search = optuna"),
        (("high = 1e-1", "high = -1"), "learning_rate=-1"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    change: tuple[str, str], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, text = tmp_path / "study.toml", STUDY.format(batch_sizes=LISTS)
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(SystemExit) as exit:
        main(["up", str(path)])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and error.startswith(f"{path}: ") and hint in error


def test_without_optuna_the_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(trials_file.importlib.util, "find_spec", lambda name: None if name == "optuna" else find(name))
    assert main(["up", str(tmp_path / "study.toml")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "search = optuna: needs the package optuna" in error
    assert "make install-optuna" in error and not (tmp_path / "STUDY").exists()
