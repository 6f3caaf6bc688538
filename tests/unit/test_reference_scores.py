"""Human-normalised scores against values computed by hand; a suite with a missing level has none."""

from __future__ import annotations

import pytest

from mlma.envs.reference_scores import level_range, score_table, suite_score
from mlma.evaluation.evaluation import summarize


def test_the_tables_are_complete() -> None:
    assert len(score_table("atari57")) == 57
    assert len(score_table("dmlab30")) == 30
    ranges = [score_range for suite in ("atari57", "dmlab30") for score_range in score_table(suite).values()]
    assert all(score_range.human != score_range.random for score_range in ranges)


@pytest.mark.parametrize("name", ["PongNoFrameskip-v4", "atari_pong", "ALE/Pong-v5"])
def test_a_level_is_found_under_each_of_its_names(name: str) -> None:
    pong = level_range(name)  # random -20.7, human 14.6
    assert pong is not None
    assert pong.normalised(14.6) == pytest.approx(100)
    assert pong.normalised(21.0) == pytest.approx(100 * 41.7 / 35.3)


@pytest.mark.parametrize("level", ["rooms_collect_good_objects_train", "rooms_collect_good_objects_test"])
def test_a_test_level_is_scored_as_its_train_level(level: str) -> None:
    score_range = level_range(level)  # 0.073 and 10
    assert score_range is not None
    assert score_range.normalised(5.0) == pytest.approx(100 * (5 - 0.073) / (10 - 0.073))


def test_a_level_without_published_scores_has_no_score() -> None:
    assert level_range("CartPole-v1") is None
    assert "human_normalised" not in summarize("CartPole-v1", [1.0, 2.0])


def test_the_score_of_a_suite_is_computed_over_all_levels() -> None:
    table = score_table("atari57")
    returns = {name: level.human for name, level in table.items()}
    returns["pong"] = table["pong"].random + 3 * (table["pong"].human - table["pong"].random)  # 300 %
    returns["boxing"] = table["boxing"].random  # 0 %
    score = suite_score("atari57", returns)
    assert score.mean == pytest.approx((55 * 100 + 300 + 0) / 57)
    assert score.mean_capped == pytest.approx((55 * 100 + 100 + 0) / 57)
    assert score.median == pytest.approx(100)
    assert score.levels["pong"] == pytest.approx(300)


def test_a_missing_level_and_a_foreign_one_are_errors_that_name_them() -> None:
    returns = {name: 1.0 for name in score_table("dmlab30") if name != "natlab_varying_map_regrowth"}
    with pytest.raises(ValueError, match="1 of 30 levels are missing: natlab_varying_map_regrowth"):
        suite_score("dmlab30", returns)
    with pytest.raises(ValueError, match="dmlab30: has no level atari_pong"):
        suite_score("dmlab30", returns | {"atari_pong": 1.0})


def test_the_summary_of_several_returns() -> None:
    summary = summarize("atari_pong", [18.0, 20.0, 21.0, 21.0])
    assert summary["mean"] == 20
    assert summary["median"] == 20.5
    assert summary["standard_error"] == pytest.approx((((4 + 0 + 1 + 1) / 3) ** 0.5) / 2)
    assert summary["human_normalised"] == pytest.approx(100 * 40.7 / 35.3)
    assert summary["human_normalised_capped"] == 100
