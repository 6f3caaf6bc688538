"""Studies with processes: members end and go on, fail, take turns and copy, and the controller may be killed.

Members are stand-ins that keep a run's promises to its folder (tests/support/stand_in_run.py); those of the slow test
really train.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mlma.studies.cli import main
from mlma.studies.controller import Controller
from mlma.studies.definition import read_definition
from mlma.studies.journal import Journal
from mlma.studies.run_files import is_in_use, read_rows
from tests.support import stand_in_run
from tests.support.runs import Process
from tests.support.studies import (
    POPULATION,
    SWEEP,
    check_population,
    check_sweep,
    events,
    frames,
    has_copies,
    until,
    write,
)

STAND_IN = [sys.executable, "-m", "tests.support.stand_in_study"]
REAL = [sys.executable, "-m", "mlma.studies"]


def study(file: Path, *flags: str, command: list[str] = STAND_IN) -> Process:
    return Process(file.parent, "controller", "up", str(file), *flags, command=command)


def test_ctrl_c_ends_all_with_checkpoints_and_the_same_command_goes_on(tmp_path: Path, capsys: Any) -> None:
    file = write(tmp_path, "seeds = 3\nat_once = 2\n[flags]\ntotal_environment_frames = 1e9\n")
    with study(file) as up:
        until(file, lambda: min(frames(file, "00"), frames(file, "01")), up)
        assert len(up.children()) == 2
        with study(file) as second:  # on the same folder
            assert second.wait() == 2 and "is up already" in second.text()
        up.signal(signal.SIGINT)
        assert up.wait() == 130, up.text()
        ended = {event["member"]: event for event in events(file, "ended")}
        assert {number: event["outcome"] for number, event in ended.items()} == {0: "stopped", 1: "stopped"}
        assert all(event["frames"] == frames(file, f"0{number}") for number, event in ended.items())
    budget = max(event["frames"] for event in ended.values()) + 5000
    with study(file, f"--total_environment_frames={budget}") as up:
        assert up.wait(200) == 0, up.text()
    assert [frames(file, f"0{number}") for number in range(3)] == [budget] * 3
    assert main(["status", str(file)]) == 0
    table = capsys.readouterr().out
    assert table.count("finished") == 3 and "no controller runs" in table
    with study(file, f"--total_environment_frames={budget + 5000}") as up:  # longer, and only that is trained
        assert up.wait(200) == 0, up.text()
    assert [frames(file, f"0{number}") for number in range(3)] == [budget + 5000] * 3


def test_ctrl_c_while_members_are_started_ends_all_of_them(tmp_path: Path) -> None:
    file = write(tmp_path, "seeds = 4\nat_once = 4\n[flags]\ntotal_environment_frames = 1e9\n")
    definition = read_definition(str(file), {}, {})
    definition.folder.mkdir()
    journal = Journal(definition.folder)
    for number, values in enumerate(definition.members()):
        journal.add("member", number, values=values)
    controller = Controller(definition, journal, Path(stand_in_run.__file__), show=lambda line: None)
    start, began = controller._places.start, time.monotonic()

    def interrupted(*arguments: Any) -> Any:
        started = start(*arguments)
        if len(controller._processes) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return started

    controller._places.start = interrupted

    def give_up() -> None:
        for process in controller._processes.values():
            process.kill()

    watchdog = threading.Timer(40, give_up)
    watchdog.start()
    assert controller.run() == 130
    watchdog.cancel()
    assert time.monotonic() - began < 40, "some were not told"
    assert [event["member"] for event in events(file, "started")] == [0, 1]
    assert [event["outcome"] for event in events(file, "ended")] == ["stopped", "stopped"]


def test_a_member_that_fails_is_restarted_then_given_up_and_never_blocks_the_others(tmp_path: Path) -> None:
    text = "at_once = 1\nrestarts = 1\n[flags]\ntotal_environment_frames = 10_000\nentropy_cost = 2\n"
    file = write(tmp_path, text + "[vary]\nbaseline_cost = [7, 8, 1]\n")
    with study(file) as up:
        assert up.wait(200) == 1, up.text()
        console = up.text()
    outcomes: dict[int, list[str]] = {}
    for event in events(file, "ended"):
        outcomes.setdefault(event["member"], []).append(event["outcome"])
    assert outcomes == {
        0: ["gave_up"],  # flags that are refused: a restart does not help
        1: ["failed", "gave_up"],
        2: ["failed", "failed", "finished"],  # it fails after each checkpoint, which is progress
    }
    assert "00 gave up at 0 frames (code 2): --baseline_cost=7: a line about it" in console
    assert "02 failed at 5,000 frames (code 1): a failure of the stand-in" in console


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_controller_goes_on_and_makes_no_copy_twice(kills: int, tmp_path: Path, capsys: Any) -> None:
    budget = 150_000 * kills  # long enough that no member has finished before all have started
    file = write(tmp_path, POPULATION.format(at_once=3, frames=budget, every=40_000))
    for copies in range(1, kills + 1):
        with study(file) as up:
            until(file, functools.partial(has_copies, file, copies), up)
            up.signal(signal.SIGKILL)  # with a copy that counts but has not started
            up.wait()
        runs = list((tmp_path / "STUDY" / "members").iterdir())
        end = time.monotonic() + 20
        while any(is_in_use(run) for run in runs) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(is_in_use(run) for run in runs), "members outlive the controller"
    unfinished = tmp_path / "STUDY" / "members" / "00.1"
    (unfinished / "checkpoints").mkdir(parents=True)  # a copy that was prepared but does not count
    (unfinished / "checkpoints" / "checkpoint-999999999.npz").write_bytes(b"half")
    with study(file) as up:
        assert up.wait(200) == 0, up.text()
    check_population(file, budget)
    assert main(["report", str(tmp_path / "STUDY")]) == 0
    page = (tmp_path / "STUDY" / "report.html").read_text()
    assert "Schedule of learning_rate" in page and "Genealogy" in page
    assert len(json.loads((tmp_path / "STUDY" / "report.json").read_text())["exploits"]) == len(events(file, "exploit"))
    assert main(["best", str(file)]) == 0
    assert "/checkpoints/checkpoint-" in capsys.readouterr().out.splitlines()[-3]


@pytest.mark.slow
def test_a_population_takes_turns_on_few_cores(tmp_path: Path) -> None:
    file = write(tmp_path, POPULATION.format(at_once=1, frames=40_000, every=10_000))
    with study(file) as up:
        assert up.wait(200) == 0, up.text()
    check_population(file, 40_000)
    turns = [event["member"] for event in events(file, "ended") if event["outcome"] == "turn"]
    assert turns[:2] == [0, 1]


def test_a_sweep_stops_bad_trials_and_gives_their_places_to_the_next(tmp_path: Path, capsys: Any) -> None:
    budget = 100_000
    file = write(tmp_path, SWEEP.format(frames=budget, every=10_000))
    with study(file) as up:
        until(file, lambda: len(events(file, "started")) >= 5, up)
        up.signal(signal.SIGKILL)
        up.wait()
    with study(file) as up:
        assert up.wait(200) == 0, up.text()
    # Their scores, with the random values of this seed: -0.5, -1.7, -3.0, -0.6, -3.6, -0.4, -2.7, -3.8.
    assert check_sweep(file, budget) == {2, 4, 6, 7}
    told = events(file, "member", "started", "ended")
    for at, event in enumerate(told):
        if event["event"] == "ended" and event["outcome"] == "pruned" and "member" in [e["event"] for e in told[at:]]:
            assert [each["event"] for each in told[at + 1 : at + 3]] == ["member", "started"]
            assert told[at + 1]["member"] == told[at + 2]["member"]
    assert main(["status", str(file)]) == 0 and main(["report", str(file)]) == 0
    text = capsys.readouterr().out
    assert "8 of 8 trials, no controller runs; 4 pruned" in text and text.count("  pruned  ") == 4
    assert json.loads((tmp_path / "STUDY" / "report.json").read_text())["pruned"] == ["02", "04", "06", "07"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_of_real_runs_stops_bad_trials(tmp_path: Path) -> None:
    file = write(tmp_path, SWEEP.format(frames=120_000, every=10_000))
    with study(file, command=REAL) as up:
        assert up.wait(550) == 0, up.text()
    # Learning rates below 2e-6 learn nothing in these frames; 3e-4 does, and is never below the median.
    assert {2, 4, 6, 7} <= check_sweep(file, 120_000) <= {1, 2, 3, 4, 5, 6, 7}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_runs_end_with_ctrl_c_go_on_and_are_compared(tmp_path: Path) -> None:
    budget = 90_000  # one member may train for some seconds before the other has started
    text = f"seeds = 4\nat_once = 2\n[flags]\nlevel_name = 'CartPole-v1'\ntotal_environment_frames = {budget}\n"
    file = write(tmp_path, text + "report_every_seconds = 1\ncheckpoint_every_seconds = 1\n")
    with study(file, command=REAL) as up:
        until(file, lambda: frames(file, "00") and frames(file, "01"), up, 200)
        up.signal(signal.SIGINT)
        assert up.wait(120) == 130, up.text()
    reached = [frames(file, run) for run in ("00", "01")]
    assert min(reached) > 0 and max(reached) < budget
    with study(file, command=REAL) as up:
        assert up.wait(500) == 0, up.text()
    for run, before in zip(("00", "01"), reached, strict=True):
        console = (tmp_path / "STUDY" / "output" / f"{run}.log").read_text()
        assert f"at {before:,} frames" in console, console  # the log of the run: resumed
    members = tmp_path / "STUDY" / "members"
    assert all(frames(file, f"0{number}") >= budget for number in range(4))
    assert main(["report", str(file)]) == 0
    (setting,) = json.loads((tmp_path / "STUDY" / "report.json").read_text())["settings"]
    scores = [float(read_rows(members / f"0{number}")[-1]["return/mean"]) for number in range(4)]
    assert sorted(setting["scores"]) == pytest.approx(sorted(scores))
    middles = sorted(sum(sorted(drawn)[1:3]) / 2 for drawn in itertools.product(scores, repeat=4))
    # Of 256 resamples, 2.5 % of the way from the first to the last is 0.375 of the way from the 7th to the 8th.
    low = middles[6] + 0.375 * (middles[7] - middles[6])
    high = middles[-7] - 0.375 * (middles[-7] - middles[-8])
    assert setting["iqm"] == pytest.approx(sum(sorted(scores)[1:3]) / 2)
    assert setting["iqm_interval"] == pytest.approx([low, high])
