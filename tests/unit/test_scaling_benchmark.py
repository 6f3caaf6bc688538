"""The tables of how a run scales: which workers take part, and what is written."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import pytest

from benchmarks.scaling import Point, format_rows, measure_point, save_rows, scaling_points, subset

WORKERS = """job,ip,tf_port,ssh_password,num_actors
learner,10.0.0.1,8001,"a,b",
# a comment
learner,10.0.0.2,8001,,
actor,10.0.0.3,,,3
actor,10.0.0.4,,,
actor,10.0.0.5,,,15
"""


def chosen(learners: int, actors: int) -> list[tuple[str, str, str]]:
    rows = csv.DictReader(subset(WORKERS, learners, actors).splitlines())
    return [(row["ip"].rpartition(".")[2], row["ssh_password"], row["num_actors"]) for row in rows]


def test_a_smaller_cluster_has_the_first_workers_of_the_csv() -> None:
    assert chosen(1, 2) == [("1", "a,b", ""), ("3", "", "2")]
    assert chosen(2, 3) == [("1", "a,b", ""), ("2", "", ""), ("3", "", "3"), ("4", "", "1"), ("5", "", "2")]
    with pytest.raises(ValueError, match="the CSV has 19"):
        chosen(1, 20)
    with pytest.raises(ValueError, match="--learners=3: the CSV has 2"):
        chosen(3, 1)


def test_rates_efficiencies_and_ceilings_are_written_three_times(tmp_path: Path) -> None:
    wanted = scaling_points([1, 4], [1, 2], each=2)
    rates = {(1, 1): 100.0, (1, 4): 300.0, (1, 2): 190.0, (2, 2): 360.0}
    found = measure_point(wanted, lambda *n: (rates[n], "actor-bound"), lambda n: 200.0 * n, lambda line: None)
    assert found[1] == Point("actors", 1, 4, 300.0, 800.0, "actor-bound")
    text = format_rows(found)
    assert "| 4 | 300 | 75% | 800 | 38% | actor-bound |" in text
    assert "| 2 | 360 | 95% | 800 | 45% | actor-bound |" in text
    table, words, picture = save_rows(found, tmp_path)
    assert words.read_text() == text
    assert len(list(csv.DictReader(table.read_text().splitlines()))) == 4
    drawn = cv2.imread(str(picture))
    assert drawn is not None
    assert drawn.std() > 10
