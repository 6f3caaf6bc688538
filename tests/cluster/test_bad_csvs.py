"""Bad CSVs of workers, and bad states of a run: the frontend answers each with one line and code 2."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlma.cluster.planning.workers_csv import MAX_LISTED_ERRORS, CsvErrors, read_workers
from mlma.cluster.state import load_state
from tests.support.bad_values import HEADER, bad_csvs, bad_files
from tests.support.runs import ROOT

ANSWER_SECONDS = 20.0  # on a busy machine; alone it takes less than one
CASES = list(bad_csvs())
SEED = 20261125


def check_answer(answer: str, path: Path, mentions: tuple[str, ...]) -> None:
    assert [part for part in (str(path), *mentions) if part not in answer] == []
    assert len(answer) < 1000
    assert answer.isprintable(), "one line, without codes that a terminal would obey"


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_bad_csv_is_answered_in_one_line_that_names_the_place(number: int, tmp_path: Path) -> None:
    content, mentions = CASES[number]
    path = tmp_path / "workers.csv"
    path.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(CsvErrors) as caught:
        read_workers(str(path))
    assert time.monotonic() - began < ANSWER_SECONDS
    check_answer(str(caught.value), path, mentions)


def test_what_is_no_csv_at_all_is_answered_in_one_line(tmp_path: Path) -> None:
    began = time.monotonic()
    for path in bad_files(tmp_path).values():
        with pytest.raises(CsvErrors) as caught:
            read_workers(str(path))
        check_answer(str(caught.value), path, ())
    assert time.monotonic() - began < ANSWER_SECONDS


def test_a_csv_with_thousands_of_errors_lists_the_first(tmp_path: Path) -> None:
    path = tmp_path / "workers.csv"
    path.write_text(f"{HEADER}\n" + "worker\n" * 500_000)
    with pytest.raises(CsvErrors) as caught:
        read_workers(str(path))
    lines = str(caught.value).splitlines()
    assert len(lines) == MAX_LISTED_ERRORS + 1
    assert "more errors" in lines[-1]


def test_line_ends_may_be_mixed_and_a_mark_may_stand_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "workers.csv"
    path.write_bytes(b"\xef\xbb\xbfjob,ip\r\nlearner,localhost\nactor,localhost\r\nactor,localhost")
    assert [worker.job for worker in read_workers(str(path))] == ["learner", "actor", "actor"]


GOOD: dict[str, Any] = {
    "id": "a", "workers": [{"row": 2, "job": "learner", "ip": "localhost"}], "argv": [], "options": {}, "actors": 0,
    "contacted_hosts": {}, "up": True,
}  # fmt: skip
BAD_STATES: list[dict[str, Any]] = [
    {"workers": 3}, {"workers": [3]}, {"workers": [{"row": "2", "job": "learner", "ip": "localhost"}]},
    {"workers": [{"row": 2, "job": "learner", "ip": "localhost", "num_actors": 10**9}]}, {"argv": 3}, {"argv": [3]},
    {"argv": ["--batch_size=many"]}, {"argv": ["--num_actors=1e9"]}, {"options": {"restart_seconds": "soon"}},
    {"options": {"restart_seconds": 1e300}}, {"options": {"\x1b[31m": 1}}, {"options": []}, {"actors": "3"},
    {"actors": 10**12}, {"up": 3}, {"id": None}, {"contacted_hosts": []}, {"contacted_hosts": {"a": {}}},
    {"more": 1},
]  # fmt: skip


def test_a_good_state_is_read(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster/run.json").write_text(json.dumps(GOOD))
    assert load_state(str(tmp_path)).workers[0].job == "learner"


@pytest.mark.parametrize("number", range(len(BAD_STATES)))
def test_a_state_with_a_bad_value_is_refused_in_one_line(number: int, tmp_path: Path) -> None:
    path = tmp_path / "cluster/run.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**GOOD, **BAD_STATES[number]}))
    with pytest.raises(ValueError, match="not the state of a run") as caught:
        load_state(str(tmp_path))
    check_answer(str(caught.value), path, ())


def test_a_state_that_is_no_file_of_json_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for name, bad in bad_files(tmp_path / "files").items():
        if name == "missing":
            continue
        path = tmp_path / name / "cluster/run.json"
        path.parent.mkdir(parents=True)
        path.symlink_to(bad)
        with pytest.raises(ValueError, match=r"run\.json") as caught:
            load_state(str(tmp_path / name))
        check_answer(str(caught.value), path, ())


def test_a_sample_is_answered_by_the_real_program(tmp_path: Path) -> None:
    paths: list[tuple[Path, tuple[str, ...]]] = [
        (bad, ()) for name, bad in bad_files(tmp_path).items() if name in ("pipe", "device")
    ]
    for number, (content, mentions) in enumerate(random.Random(SEED).sample(CASES, 4)):
        path = tmp_path / f"workers-{number}.csv"
        path.write_bytes(content)
        paths.append((path, mentions))
    for path, mentions in paths:
        began = time.monotonic()
        command = [sys.executable, "run_experiment_mm_raw.py", "check", f"--workers_csv_path={path}"]
        done = subprocess.run([*command, f"--logdir={tmp_path}/run"], cwd=ROOT, capture_output=True, timeout=120)
        errors = done.stderr.decode()
        assert (done.returncode, done.stdout) == (2, b""), errors
        assert errors.count("\n") == 1, errors
        check_answer(errors.rstrip("\n"), path, mentions)
        assert time.monotonic() - began < ANSWER_SECONDS
