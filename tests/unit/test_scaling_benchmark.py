"""benchmarks/scaling.py: which workers of a CSV take part, and what is written."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import pytest

from benchmarks.scaling import (
    Point,
    format_rows,
    measure_points,
    parse_counts,
    save_rows,
    scaling_points,
    select_workers,
)

WORKERS = """job,ip,tf_port,ssh_password,num_actors
learner,10.0.0.1,8001,"a,b",
# a comment
learner,10.0.0.2,8001,,
actor,10.0.0.3,,,3
actor,10.0.0.4,,,
actor,10.0.0.5,,,15
"""


def selected(learners: int, actors: int) -> list[tuple[str, str, str]]:
    """(last part of the address, password, actors) of each selected worker."""
    rows = csv.DictReader(select_workers(WORKERS, learners, actors).splitlines())
    return [(row["ip"].rpartition(".")[2], row["ssh_password"], row["num_actors"]) for row in rows]


def test_a_smaller_cluster_has_the_first_workers_of_the_csv() -> None:
    assert selected(1, 2) == [("1", "a,b", ""), ("3", "", "2")]
    assert selected(2, 3) == [("1", "a,b", ""), ("2", "", ""), ("3", "", "3"), ("4", "", "1"), ("5", "", "2")]
    with pytest.raises(ValueError, match="the CSV has 19"):
        selected(1, 20)
    with pytest.raises(ValueError, match="--learners=3: the CSV has 2"):
        selected(3, 1)


def test_rates_efficiencies_and_ceilings_are_written_three_times(tmp_path: Path) -> None:
    points = scaling_points([1, 4], [1, 2], actors_each=2)
    rates = {(1, 1): 100.0, (1, 4): 300.0, (1, 2): 190.0, (2, 2): 360.0}
    measured = measure_points(points, lambda *n: (rates[n], "actor-bound"), lambda n: 200.0 * n)
    assert measured[1] == Point("actors", 1, 4, 300.0, 800.0, "actor-bound")
    text = format_rows(measured)
    assert "| 4 | 300 | 75% | 800 | 38% | actor-bound |" in text
    assert "| 2 | 360 | 95% | 800 | 45% | actor-bound |" in text
    table, markdown, plot = save_rows(measured, tmp_path)
    assert markdown.read_text() == text
    assert len(list(csv.DictReader(table.read_text().splitlines()))) == 4
    image = cv2.imread(str(plot))
    assert image is not None
    assert image.std() > 10


def test_counts_are_positive_numbers() -> None:
    assert parse_counts("--actors", "1,2,16") == [1, 2, 16]
    assert parse_counts("--actors", "") == []
    for text in ("0", "1,-2", "many"):
        with pytest.raises(ValueError, match=f"--actors={text}: must be numbers from 1 on"):
            parse_counts("--actors", text)
