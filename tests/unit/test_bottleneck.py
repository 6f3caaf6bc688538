"""The diagnosis of the bottleneck: from invented shares, and from real runs that are staged to have one bottleneck."""

from __future__ import annotations

import csv
import importlib.util
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlma.cluster.on_host.host_files import last_rows
from mlma.monitoring.bottleneck import RECENT_REPORTS, average_columns, diagnose
from tests.support.runs import ROOT


def row(**shares: float) -> dict[str, float]:
    """A report of a balanced run with these columns changed; __ stands for /."""
    balanced = {"learner/wait": 0.02, "learner/gradient": 0.8, "actors/wait": 0.02, "actors/fetch": 0.01}
    return balanced | {"actors/count": 8.0} | {name.replace("__", "/"): value for name, value in shares.items()}


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (
            {"learner__wait": 0.6, "learner__gradient": 0.38},
            "actor-bound: the learner waits 60 %; about 12 more actors would",
        ),
        ({"learner__wait": 0.6, "actors__wait": 0.25}, "about 7 more actors"),  # these eight could send a third more
        ({"learner__wait": 0.12, "actors__count": 1.0}, "about 1 more actor would saturate it (1 now)"),
        ({"learner__wait": 0.3, "host__busy": 0.99}, "cpu-bound: the learner waits 30 %"),
        ({"learner__wait": 0.6, "actors__wait": 0.5}, "network-bound: the learner waits 60 %"),
        ({"learner__wait": 0.6, "actors__fetch": 0.5}, "most of it for weights"),
        ({"learner__wait": 0.6, "actors__fetch": 0.5, "host__busy": 0.99}, "cpu-bound: the learner waits 60 %"),
        ({"learner__wait": 0.6, "receiver__stack": 0.95, "actors__wait": 0.9}, "receiver-bound"),
        (
            {"actors__wait": 0.45},
            "learner-bound: gradients take 80 % of its time, actors wait 45 %; 5 of 8 actors would do",
        ),
        (
            {"learner__stack": 0.5, "learner__gradient": 0.4, "actors__wait": 0.3},
            "learner-bound: stacking samples take 50 %",
        ),
        ({"learner__allreduce": 0.6, "learner__gradient": 0.3}, "allreduce-bound: 60 %"),
        ({}, "balanced: the learner waits 2 %, actors 2 %"),
    ],
)
def test_the_sentence_follows_from_the_shares(shares: dict[str, float], expected: str) -> None:
    assert expected in diagnose(row(**shares))


def slowest(**shares: float) -> dict[str, float]:
    """A report of two learners: rank 0 waits for rank 1, which has these shares."""
    return row(learner__allreduce=0.4) | {f"slowest/{name}": value for name, value in ({"rank": 1.0} | shares).items()}


def test_with_several_learners_it_is_the_slowest_that_counts() -> None:
    assert diagnose(slowest(wait=0.5, gradient=0.4)).startswith("actor-bound: learner 1 waits 50 %")
    sentence = diagnose(slowest(wait=0.0, gradient=0.9) | {"actors/wait": 0.6})
    assert sentence.startswith("learner-bound")
    assert "the other learners wait for learner 1" in sentence
    assert diagnose(slowest(wait=0.0, gradient=0.3, allreduce=0.6)).startswith("allreduce-bound")


def test_there_is_no_diagnosis_before_anything_is_known() -> None:
    for unknown in ({}, row(actors__count=0.0), row(actors__wait=math.nan)):
        assert diagnose(unknown) == ""


def test_reports_are_averaged_where_they_have_a_number() -> None:
    means = average_columns([row(learner__wait=0.2), row(learner__wait=0.6, actors__wait=math.nan, actors__count=9.0)])
    assert means["learner/wait"] == pytest.approx(0.4)
    assert means["actors/wait"] == 0.02
    assert means["actors/count"] == 9
    assert "slowest/wait" not in means


def test_status_diagnoses_the_last_reports_of_a_run_on_another_host(tmp_path: Path) -> None:
    reports = [row(learner__wait=0.0, actors__wait=0.9, frames=1.0)] * 9
    reports += [row(learner__wait=0.6, learner__gradient=0.3, frames=2.0)] * RECENT_REPORTS
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, reports[0])
        writer.writeheader()
        writer.writerows(reports)
    rows = last_rows(str(tmp_path), RECENT_REPORTS)
    assert len(rows) == RECENT_REPORTS
    assert diagnose(average_columns(rows)).startswith("actor-bound: the learner waits 60 %")
    assert 0 <= rows[-1]["age"] < 60
    (tmp_path / "metrics.csv").write_text("frames,learner/wait\n")
    assert last_rows(str(tmp_path), 6) == last_rows(str(tmp_path / "nowhere"), 6) == []


@pytest.fixture(scope="module")
def staged() -> Any:
    """sandbox/scaling/staged.py: runs of a level that sleeps."""
    spec = importlib.util.spec_from_file_location("staged", ROOT / "sandbox/scaling/staged.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


needs_network = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not all(map(shutil.which, ("ip", "tc"))), reason="no ip or tc: apt-get install iproute2"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no tun device"),
]
SHORT = {"warm_up": 2.0, "seconds": 5.0}


@pytest.mark.learning  # like all tests below: on a machine with other work, the bottleneck is another one
def test_too_few_actors_are_named(staged: Any, tmp_path: Path) -> None:
    report = staged.local(tmp_path, 1, *staged.RARE, warm_up=staged.SETTLED, seconds=5.0)
    assert report.sentence.startswith("actor-bound: the learner waits"), (report.sentence, report.row)
    assert report.row["learner/wait"] > 0.4
    total = sum(report.row[f"learner/{name}"] for name in ("wait", "gradient", "allreduce", "apply", "publish"))
    assert 0.9 < total < 1.02, "the shares add up"


@pytest.mark.learning
def test_a_large_network_is_named(staged: Any, tmp_path: Path) -> None:
    report = staged.local(tmp_path, 2, *staged.LARGE, **SHORT)
    assert report.sentence.startswith("learner-bound: gradients take"), (report.sentence, report.row)


@pytest.mark.learning
@pytest.mark.parametrize("mbit", [pytest.param(100, marks=needs_network)])
def test_a_slow_link_to_the_learner_is_named(staged: Any, mbit: float, tmp_path: Path) -> None:
    report = staged.behind_a_link(tmp_path, 2, mbit, *staged.SMALL, **SHORT)
    assert report.sentence.startswith("network-bound: the learner waits"), (report.sentence, report.row)


@pytest.mark.learning
@pytest.mark.parametrize("mbit", [pytest.param(100, marks=needs_network)])
def test_a_slow_link_between_learners_is_named(staged: Any, mbit: float, tmp_path: Path) -> None:
    report = staged.far_learners(tmp_path, mbit, *staged.SMALL)
    assert report.sentence.startswith("allreduce-bound"), (report.sentence, report.row)


@pytest.mark.learning
def test_as_many_actors_as_predicted_saturate_the_learner(staged: Any, tmp_path: Path) -> None:
    summary = staged.follow(tmp_path, 2)
    assert abs(float(re.findall(r"\(([+-]\d+)%\)", summary)[0])) <= 25, summary
