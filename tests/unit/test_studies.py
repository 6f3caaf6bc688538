"""Studies without processes: what a file means, what is refused, the journal, who copies whom, statistics."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlma.core.config import flag_table
from mlma.learning.checkpoint_file import load_checkpoint, write_checkpoint
from mlma.studies.cli import main
from mlma.studies.definition import Definition, read_definition, save_definition
from mlma.studies.journal import JOURNAL, Journal
from mlma.studies.options import PbtOptions
from mlma.studies.population.adopt import adopt
from mlma.studies.population.evolution import Evolution
from mlma.studies.population.rules import choose_parent, explore
from mlma.studies.report_page.statistics import bootstrap, bootstrap_curve, iqm, mean
from mlma.studies.run_files import read_description, saved, score_of
from mlma.studies.search import Range, Values

GRID = """
seeds = 2
[flags]
level_name = "catch"
seed = 5
[vary]
learning_rate = [1e-4, 1e-3]
batch_size = [8, 16]
"""
PBT = """
[flags]
level_name = "catch"
[vary]
learning_rate = [1e-3, 1e-6]
[pbt]
every_frames = 1000
"""


def read(folder: Path, text: str, name: str = "rates.toml", **options: Any) -> Definition:
    path = folder / name
    path.write_text(text)
    return read_definition(str(path), options, {})


def test_a_grid_has_all_combinations_with_each_seed(tmp_path: Path) -> None:
    members = read(tmp_path, GRID).members()
    pairs = [(1e-4, 8), (1e-4, 16), (1e-3, 8), (1e-3, 16)]
    assert members == [
        {"learning_rate": rate, "batch_size": batch, "seed": seed} for seed in (5, 6) for rate, batch in pairs
    ]
    assert read(tmp_path, GRID, seeds=3).members()[:8] == members  # more seeds come at the end


def test_yaml_and_toml_mean_the_same(tmp_path: Path) -> None:
    yaml = "search: random\ntrials: 3\nflags:\n  level_name: catch\nvary:\n  learning_rate: {low: 1e-5, high: 0.1, "
    toml = 'search = "random"\ntrials = 3\n[flags]\nlevel_name = "catch"\n[vary]\n'
    toml += 'learning_rate = { low = 1e-5, high = 0.1, scale = "log" }'
    first, second = read(tmp_path, yaml + "scale: log}\n", "rates.yaml"), read(tmp_path, toml)
    assert first.as_json() == second.as_json() and first.members() == second.members()
    assert str(second.folder) == "logdir/rates"


def test_random_search_stays_in_its_range_and_more_trials_begin_the_same(tmp_path: Path) -> None:
    text = 'search = "random"\ntrials = 40\n[vary]\n'
    text += 'learning_rate = { low = 1e-6, high = 1e-2, scale = "log" }\nbatch_size = { low = 4, high = 6 }'
    members = read(tmp_path, text).members()
    rates = sorted(member["learning_rate"] for member in members)
    assert 1e-6 <= rates[0] < 1e-5 and 1e-3 < rates[-1] <= 1e-2 and 1e-5 < statistics.median(rates) < 1e-3
    assert {member["batch_size"] for member in members} == {4, 5, 6}
    assert read(tmp_path, text, trials=50).members()[:40] == members


def test_members_of_a_population_have_seeds_of_their_own(tmp_path: Path) -> None:
    assert [member["seed"] for member in read(tmp_path, PBT, seeds=2).members()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("sedes = 4", "line 1: sedes: no such entry of a study; did you mean seeds"),
        ("learning_rate = 1", "belongs under [flags]"),
        ("seeds = 0", "line 1: --seeds=0: must be at least 1"),
        ('search = "grib"', "must be one of grid, random"),
        ("trials = 3", "trials: only with search = random"),
        ('search = "random"', "trials = 8"),
        ("[flags]\nlogdir = 'x'", "logdir: follows from the study"),
        ("[flags]\nlearning_rat = 1", "flags: learning_rat: no such flag; did you mean learning_rate"),
        ("[flags]\nlearning_rate = -1", "--learning_rate=-1.0: must be at least 0"),
        ("[vary]\nlearning_rate = 1e-3", "vary: learning_rate: must be a list of values, or"),
        ("[vary]\nlearning_rate = []", "needs at least one value"),
        ("[vary]\nlearning_rate = [1e-3, 1e-3]", "has a value twice"),
        ("[vary]\nlearning_rate = [1e-3, -1]", "--learning_rate=-1.0: must be at least 0"),
        ("[vary]\nlearning_rate = { low = 1e-3, high = 1e-2 }", "ranges need: search = random"),
        ("[vary]\nlearning_rate = { low = 0, high = 1, scale = 'log' }", "0 < low < high"),
        ("[vary]\nalgorithm = { low = 0, high = 1 }", "since it is no number"),
        ("[vary]\ntask = [1, 2]", "task: follows from the study"),
        ("[flags]\nbatch_size = 8\n[vary]\nbatch_size = [1, 2]", "is set in [vary] and in the flags"),
        ("[vary]\nreward_clipping = ['none', 'no']", "--reward_clipping=no: must be"),
        ("seeds = 900\n[vary]\nbatch_size = [1, 2]", "at most 1000"),
        ("seeds = 2\n[vary]\nseed = [1, 2]", "seeds: not with seed in [vary]"),
        (PBT.replace("every_frames = 1000", ""), "pbt: every_frames: must be given"),
        (PBT.replace("learning_rate", "batch_size").replace("1e-3, 1e-6", "8, 16"), "cannot change in training"),
        (PBT.replace("1e-6", "0"), "take the preset's value"),
        (PBT.replace(", 1e-6", ""), "a population needs two members"),
        (PBT + "quantil = 0.1", "pbt: quantil: no such flag; did you mean quantile"),
        (PBT + "metric = 'score/capped'", "no scores of catch are published"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_it(
    text: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as exit:
        main(["up", str(path)])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and error.startswith(f"{path}: ") and hint in error


def test_a_study_with_other_flags_is_refused_but_more_frames_are_not(tmp_path: Path) -> None:
    definition = read(tmp_path, f"folder = '{tmp_path}'\n[flags]\nbatch_size = 8\ntotal_environment_frames = 100\n")
    save_definition(definition)
    save_definition(read_definition(str(tmp_path), {}, {"total_environment_frames": 200.0}))
    with pytest.raises(ValueError, match=r"other settings: flags\.batch_size; allowed: another folder"):
        save_definition(read_definition(str(tmp_path), {}, {"batch_size": 9}))


def test_the_state_follows_from_the_journal_even_if_its_last_line_is_cut_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(2):
        journal.add("member", number, values={"learning_rate": 1e-3})
        journal.add("started", number, generation=0, pid=1)
    copied = {"generation": 1, "parent": 1, "parent_generation": 0, "parent_frames": 70.0, "parent_score": 2.0}
    journal.add("exploit", 0, frames=60.0, score=1.0, values={"learning_rate": 2e-3}, changes={}, **copied)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"event": "exploit", "member": 1, "gener')
    again = Journal(tmp_path)
    assert again.members == journal.members and again.members[0].run == "00.1"
    assert (again.members[0].compared_at, again.members[0].values) == (70.0, {"learning_rate": 2e-3})
    again.add("ended", 0, generation=0, outcome="stopped")  # of the run that has been replaced
    assert again.members[0].outcome == "replaced"
    assert [json.loads(line)["event"] for line in (tmp_path / JOURNAL).read_text().splitlines()][-2:] == [
        "exploit",
        "ended",
    ]
    (tmp_path / JOURNAL).write_text('{"event": 1}\n')
    with pytest.raises(ValueError, match="line 1: damaged"):
        Journal(tmp_path)


def test_the_worst_quarter_copies_the_best_quarter() -> None:
    scores = dict(enumerate([5.0, 1.0, 7.0, 3.0, 8.0, 2.0, 6.0, 4.0]))
    everyone, pbt = set(scores), PbtOptions()
    chosen = {n: {choose_parent(n, scores, everyone, pbt, random.Random(seed)) for seed in range(30)} for n in scores}
    assert chosen == {n: {4, 2} if n in (1, 5) else {None} for n in scores}
    assert choose_parent(1, scores, everyone - {2, 4}, pbt, random.Random(1)) is None
    assert choose_parent(1, dict.fromkeys(scores, 1.0), everyone, pbt, random.Random(1)) is None  # nobody is better


def test_with_a_margin_a_member_copies_one_that_is_better_by_more() -> None:
    pbt = PbtOptions(margin=5.0)
    assert choose_parent(0, {0: 1.0, 1: 6.5}, {0, 1}, pbt, random.Random(1)) == 1
    assert choose_parent(0, {0: 1.0, 1: 6.0}, {0, 1}, pbt, random.Random(1)) is None
    assert choose_parent(1, {0: 1.0, 1: 6.5}, {0, 1}, pbt, random.Random(1)) is None


def test_a_copy_changes_by_the_factor_or_is_drawn_anew() -> None:
    vary: dict[str, Values | Range] = {"learning_rate": Range(1e-5, 1e-2, True, False), "discounting": Values((0.99,))}
    values = {"learning_rate": 1e-3, "discounting": 0.99, "seed": 3}

    def changed(**options: Any) -> list[dict[str, Any]]:
        pbt = PbtOptions(**options)
        return [explore(values, vary, flag_table(), pbt, random.Random(seed)) for seed in range(300)]

    always = changed(perturb_probability=1.0)
    assert {each["learning_rate"] for each in always} == {1.2e-3, 0.000833333}
    assert {each["discounting"] for each in always} == {0.988, 0.991667}
    assert changed(perturb_probability=0.0) == [values] * 300
    share = sum(each["learning_rate"] != 1e-3 for each in changed()) / 300
    assert 0.25 < share < 0.41
    drawn = {each["learning_rate"] for each in changed(resample_probability=1.0)}
    assert len(drawn) > 250 and min(drawn) >= 1e-5 and max(drawn) <= 1e-2


def test_a_copy_has_the_weights_and_frames_of_its_parent_but_other_seeds(tmp_path: Path) -> None:
    source, target = tmp_path / "parent" / "checkpoints" / "checkpoint-000000007.npz", tmp_path / "copy" / "a.npz"
    source.parent.mkdir(parents=True)
    weights = np.arange(6.0).reshape(2, 3)
    with source.open("wb") as file:
        write_checkpoint(file, {"w": weights, "slot": weights * 2}, {"frames": 1000, "step": 7, "seeds": [11, 22]})
    (tmp_path / "parent" / "metrics.csv").write_text("frames,return/mean\n500,1\n990,2\n1500,9\n")
    assert read_description(source)["frames"] == 1000
    found = saved(source, "return/mean", "catch")
    assert found and (found.frames, found.score) == (1000.0, 2.0)  # not what was measured later
    adopt(source, target, seed=3)
    variables, meta = load_checkpoint(target)  # which compares the digest
    assert np.array_equal(variables["w"], weights) and np.array_equal(variables["slot"], weights * 2)
    assert (meta["frames"], meta["step"]) == (1000, 7) and meta["seeds"] != [11, 22]
    source.write_bytes(source.read_bytes()[:-40])
    with pytest.raises(ValueError, match="not a checkpoint"):
        adopt(source, target, seed=3)
    assert saved(source, "return/mean", "catch") is None


def test_a_copy_comes_about_although_its_parent_deletes_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = read(tmp_path, f"folder = '{tmp_path}/study'\n{PBT}")
    definition.folder.mkdir()
    journal = Journal(definition.folder)
    for number, values in enumerate(definition.members()):
        journal.add("member", number, values=values)
        run = definition.folder / "members" / f"0{number}"
        (run / "checkpoints").mkdir(parents=True)
        (run / "metrics.csv").write_text(f"frames,return/mean\n1000,{-number}\n")
        with (run / "checkpoints" / "checkpoint-000000001.npz").open("wb") as file:
            write_checkpoint(file, {"w": np.full(2, number)}, {"frames": 1000 + number, "step": 1, "seeds": [1, 2]})
    start = subprocess.run

    def run_late(command: list[str], **options: Any) -> Any:
        (definition.folder / "members" / "00" / "checkpoints" / "checkpoint-000000001.npz").unlink()
        return start(command, **options)

    monkeypatch.setattr(subprocess, "run", run_late)
    evolution = Evolution(definition, journal, print)
    best, worst = journal.members
    assert evolution.compare(best) and best.generation == 0 and best.compared_at == 1000
    assert evolution.compare(worst) and worst.run == "01.1" and worst.score == 0
    (copy,) = (definition.folder / "members" / "01.1").rglob("*.npz")
    assert load_checkpoint(copy)[0]["w"].tolist() == [0, 0]
    assert not evolution.compare(worst)  # until it has trained
    evolution.retire(worst)
    assert not list((definition.folder / "members" / "01").rglob("*.npz"))


def test_the_capped_score_of_one_level_is_that_of_its_return() -> None:
    low = {"return/mean": "-20.7"}  # random play of Pong
    assert score_of(low, "score/capped", "PongNoFrameskip-v4") == pytest.approx(0.0, abs=0.5)
    assert score_of({"return/mean": "21"}, "score/capped", "PongNoFrameskip-v4") == 100.0
    assert score_of({"return/mean": "21", "score/capped": "12"}, "score/capped", "a,b") == 12.0


def test_iqm_and_intervals_by_hand() -> None:
    assert iqm(np.array([8.0, 1, 2, 3, 4, 5, 6, 7])) == 4.5  # of 3, 4, 5, 6
    assert iqm(np.array([100.0, 1, 2, 3, -50])) == 2.0  # a quarter of five, rounded down, is one
    assert iqm(np.array([1.0, 2, 6])) == 3.0  # nothing is cut off
    # The resamples of two runs, 0 and 1, have the means 0, 1/2, 1/2, 1; 2.5 % is 0.075 of the way from 0 to 1/2.
    assert bootstrap([[0.0], [1.0]], mean) == pytest.approx((0.5, 0.0375, 0.9625))
    scores = [0.0, 1.0, 2.0, 10.0]
    every = sorted(statistics.fmean(sorted(drawn)[1:3]) for drawn in itertools.product(scores, repeat=4))
    expected = [every[int(at)] + (at % 1) * (every[int(at) + 1] - every[int(at)]) for at in (0.025 * 255, 0.975 * 255)]
    assert bootstrap(np.array(scores)[:, None], iqm) == pytest.approx((1.5, *expected))


def test_random_resamples_come_close_to_all_of_them_and_levels_are_drawn_apart() -> None:
    scores = np.array([[0.0], [1.0], [2.0], [10.0]])
    assert bootstrap(scores, iqm, resamples=255) == pytest.approx(bootstrap(scores, iqm), abs=0.6)
    # Of two levels with one run that differs in each, resamples of whole runs could not have a mean of 1/2.
    low, high = bootstrap(np.array([[1.0, 0.0], [0.0, 1.0]]), mean)[1:]
    assert low < 0.3 and high > 0.7


def test_a_curve_has_an_interval_at_each_point() -> None:
    curve = bootstrap_curve([[0.0, 5.0], [1.0, 5.0]], mean)
    assert curve.value.tolist() == [0.5, 5.0]
    assert curve.low == pytest.approx([0.0375, 5.0]) and curve.high == pytest.approx([0.9625, 5.0])
