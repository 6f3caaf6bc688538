"""The sentence on where the time goes: from shares made up here, and from real runs that are staged to have one bottleneck."""

from __future__ import annotations

import math

import pytest

from mlma import bottleneck


def row(**shares: float) -> dict[str, float]:
    """A report; __ stands for /."""
    found = {"learner/wait": 0.02, "learner/gradient": 0.8, "actors/wait": 0.02, "actors/fetch": 0.01, "actors/count": 8.0}
    return found | {name.replace("__", "/"): value for name, value in shares.items()}


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"learner__wait": 0.6, "learner__gradient": 0.38}, "actor-bound: the learner waits 60 %; about 12 more actors would"),
        ({"learner__wait": 0.6, "actors__wait": 0.25}, "about 7 more actors"),  # they could give a third more as it is
        ({"learner__wait": 0.12, "actors__count": 1.0}, "about 1 more actor would saturate it (1 now)"),
        ({"learner__wait": 0.3, "host__busy": 0.99}, "cpu-bound: the learner waits 30 %"),
        ({"learner__wait": 0.6, "actors__wait": 0.5}, "network-bound: the learner waits 60 %"),
        ({"learner__wait": 0.6, "actors__fetch": 0.5}, "most of it for weights"),
        ({"learner__wait": 0.6, "receiver__stack": 0.95, "actors__wait": 0.9}, "receiver-bound"),
        ({"actors__wait": 0.45}, "learner-bound: gradients take 80 % of its time, actors wait 45 %; 5 of 8 actors would do"),
        ({"learner__stack": 0.5, "learner__gradient": 0.4, "actors__wait": 0.3}, "learner-bound: stacking samples take 50 %"),
        ({"learner__allreduce": 0.6, "learner__gradient": 0.3}, "allreduce-bound: 60 %"),
        ({}, "balanced: the learner waits 2 %, actors 2 %"),
    ],
)
def test_the_sentence_follows_from_the_shares(shares: dict[str, float], words: str) -> None:
    assert words in bottleneck.sentence(row(**shares))


def slowest(**shares: float) -> dict[str, float]:
    """Of two learners: rank 0 waits for rank 1, whose shares are given."""
    return row(learner__allreduce=0.4) | {f"slowest/{name}": value for name, value in ({"rank": 1.0} | shares).items()}


def test_with_several_learners_it_is_the_slowest_that_counts() -> None:
    assert bottleneck.sentence(slowest(wait=0.5, gradient=0.4)).startswith("actor-bound: learner 1 waits 50 %")
    words = bottleneck.sentence(slowest(wait=0.0, gradient=0.9) | {"actors/wait": 0.6})
    assert words.startswith("learner-bound")
    assert "the other learners wait for learner 1" in words
    assert bottleneck.sentence(slowest(wait=0.0, gradient=0.3, allreduce=0.6)).startswith("allreduce-bound")


def test_nothing_is_said_before_anything_is_known() -> None:
    for unknown in ({}, row(actors__count=0.0), row(actors__wait=math.nan)):
        assert bottleneck.sentence(unknown) == ""


def test_reports_are_averaged_where_they_have_a_number() -> None:
    found = bottleneck.average([row(learner__wait=0.2), row(learner__wait=0.6, actors__wait=math.nan, actors__count=9.0)])
    assert found["learner/wait"] == pytest.approx(0.4)
    assert found["actors/wait"] == 0.02
    assert found["actors/count"] == 9
    assert "slowest/wait" not in found
