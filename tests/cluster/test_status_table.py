"""The table of `status` on terminals of any size: learners and faults are never hidden."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mlma.cluster.commands.status_table import WorkerRow, render, short_names

DOMAIN = "rack-with-a-rather-long-name.cluster.example.org"
SILENT = "no answer within 10 s: host down, unreachable, or behind a firewall"
LAST_LINE = "learner 0: 120,000 frames, 3,400 frames/s, return 17.3, lag 2.1"


def screen(rows: list[WorkerRow], width: int, height: int = 24, title: str = "run: 2 learners") -> list[str]:
    """The lines on a terminal of this size; those below it are lost."""
    console = Console(file=io.StringIO(), width=width, height=height, highlight=False)
    console.print(render(rows, title, width, height))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue().splitlines()[:height]


def workers(actors: int, unreachable: int = 0) -> list[WorkerRow]:
    rows = [
        WorkerRow(f"learner-{i}", f"gpu-node-{i:03}.{DOMAIN}", "running", "3h10m", "3,400", "2.1", LAST_LINE)
        for i in range(2)
    ]
    for number in range(actors):
        host = f"cpu-node-{number:03}.{DOMAIN}"
        bad = number >= actors - unreachable
        state, problem = ("unreachable", SILENT) if bad else ("running", "")
        rows.append(WorkerRow(f"actor-{number}", host, state, "", "", "", problem or "reached", problem))
    return rows


@pytest.mark.parametrize("width", [60, 80, 200])
def test_long_host_names_hide_neither_workers_nor_states(width: int) -> None:
    text = screen(workers(6, unreachable=1), width)
    for name in ("learner-0", "learner-1", "actor-0", "actor-5"):
        assert any(line.startswith(f"{name} ") for line in text), text
    assert sum(" running " in line for line in text) == 7
    assert sum(" unreachable" in line for line in text) >= 1
    assert "actor-5 on cpu-node-005" in "".join(text)
    assert all(len(line) <= width for line in text)
    assert "gpu-node-001" in "".join(text), "what distinguishes hosts is what stays of their names"


@pytest.mark.parametrize("unreachable", [1, 8, 100])
def test_faults_among_many_workers_are_shown_and_counted(unreachable: int) -> None:
    text = screen(workers(100, unreachable), 80)
    assert len(text) <= 24
    assert sum(line.startswith("learner-") for line in text) == 2
    assert SILENT in " ".join(" ".join(text).split()), text
    shown = sum(" unreachable" in line and line.startswith("actor-") for line in text)
    (more,) = [line for line in text if line.startswith("... and ")]
    hidden = unreachable - shown
    assert shown > 0 and (f"{hidden} unreachable" in more) == (hidden > 0), text
    assert "without problems" not in more


def test_many_different_problems_are_counted_where_they_do_not_fit() -> None:
    rows = [
        WorkerRow(f"actor-{i}", f"10.0.0.{i}", "failed", problem=f"ended with code {i}: {'reason ' * 20}")
        for i in range(40)
    ]
    text = screen(rows, 80)
    assert len(text) <= 24
    assert any("more problems; `status` lists all" in line for line in text)
    everything = "\n".join(screen(rows, 80, height=1000))
    assert all(f"ended with code {i}:" in everything for i in range(40))


def test_workers_of_several_hosts_with_one_problem_are_one_line() -> None:
    text = " ".join(screen(workers(30, unreachable=20), 400, height=60))
    assert "actor-10, actor-11, actor-12, actor-13 and 16 more on 20 hosts (cpu-node-010" in text


def test_a_worker_that_was_not_started_is_no_good_one() -> None:
    rows = [WorkerRow(f"actor-{i}", "a", "off" if i > 60 else "running") for i in range(64)]
    text = screen(rows, 80)
    assert [line.split()[2] for line in text if line.startswith("actor-6") and " off" in line] == ["off"] * 3


def test_short_names_stay_different() -> None:
    assert short_names(["a.x.org", "b.x.org"], 20) == {"a.x.org": "a", "b.x.org": "b"}
    assert short_names(["10.0.0.1", "10.0.0.2"], 20) == {"10.0.0.1": "10.0.0.1", "10.0.0.2": "10.0.0.2"}
    long = [f"{'a' * 30}-{i}-{'b' * 30}" for i in range(3)]
    assert short_names(long, 14) == dict(zip(long, long, strict=True)), "nothing that could be mistaken"
    assert short_names([f"a-very-long-name-of-node-{i:03}" for i in (1, 2)], 14) == {
        "a-very-long-name-of-node-001": "a-ver…node-001",
        "a-very-long-name-of-node-002": "a-ver…node-002",
    }
