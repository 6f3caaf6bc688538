"""Published curves and scores: the data against values typed from their sources, interpolation, and how they are
drawn beside a run."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mlma.envs.level_syntax import PUBLISHED_FOLDER, published_rows
from mlma.envs.published_curves import (
    NOTHING,
    PublishedCurve,
    PublishedLevel,
    PublishedResult,
    nearest_curve,
    protocol_of_run,
    published_curves,
    published_level,
    published_results,
)
from mlma.envs.reference_scores import reference_returns
from mlma.evaluation.charts import plt
from mlma.evaluation.published_charts import (
    UP,
    MarginLabel,
    comparison_rows,
    describe_protocols,
    draw_published,
    left_out,
    place_labels,
)

LEVELS = sorted({row["level"] for row in published_rows("curves")})
FLAGS = {
    "level_name": "atari_breakout", "sticky_actions": -1.0, "life_loss_ends_return": True, "fire_reset": False,
    "noop_max": 30,
}  # fmt: skip


def curve(level: str, label: str) -> PublishedCurve:
    return next(curve for curve in published_curves(level) if curve.label == label)


@pytest.mark.parametrize("level", LEVELS)
def test_each_curve_ascends_in_frames_and_has_a_source_and_a_protocol(level: str) -> None:
    for each in published_curves(level):
        assert len(each.frames) == len(each.returns) > 30
        assert list(each.frames) == sorted(set(each.frames)), each.label
        assert each.source
        assert each.protocol.returns
        assert None not in each.protocol
        assert (len(each.low), len(each.high)) == ((len(each.frames),) * 2 if each.runs > 1 else (0, 0))
        for low, mean, high in zip(each.low, each.returns, each.high, strict=False):
            assert low <= mean <= high


def test_every_row_belongs_to_a_series_and_every_protocol_exists() -> None:
    series = {row["series"]: row for row in published_rows("series")}
    assert {row["series"] for row in published_rows("curves")} == series.keys()
    protocols = {row["protocol"] for row in published_rows("protocols")}
    used = {row["protocol"] for row in [*series.values(), *published_rows("results")] if row["protocol"]}
    assert used == protocols
    assert all(row["source"] for row in published_rows("results"))


def test_the_tables_are_small_and_name_no_folder_of_a_machine() -> None:
    files = list(PUBLISHED_FOLDER.glob("*.csv"))
    assert sum(file.stat().st_size for file in files) < 100_000
    assert not [file for file in files if "shared" in file.read_text() or "/work" in file.read_text()]


@pytest.mark.parametrize(
    ("level", "label", "frames", "low", "mean", "high"),
    [  # of google/dopamine
        ("atari_breakout", "Dopamine DQN, CNN", 20e6, 86.7, 93.37, 102.86),
        ("atari_pong", "Dopamine Rainbow, CNN", 20e6, 18.15, 18.76, 19.44),
        ("atari_seaquest", "Dopamine Rainbow, ResNet", 200e6, 262855.38, 304689.52, 358437.27),
        ("atari_space_invaders", "Dopamine IQN, ResNet", 20e6, 3040.37, 5583.65, 7399.26),
    ],
)
def test_points_of_dopamine(level: str, label: str, frames: float, low: float, mean: float, high: float) -> None:
    found = curve(level, label)
    values = [found.at(frames, found.low), found.at(frames), found.at(frames, found.high)]
    assert values == pytest.approx([low, mean, high], rel=1e-4)
    assert found.runs == 5


# The last report of each of RLlib's runs before 20 M frames of Breakout and the first one after: frames, return.
BREAKOUT_REPORTS = (
    (19_848_000, 326.43, 20_436_000, 297.56),
    (19_738_000, 331.06, 20_328_000, 314.24),
    (19_622_000, 310.24, 20_204_000, 308.56),
    (19_570_000, 265.21, 20_118_000, 317.1),
    (19_784_000, 333.22, 20_338_000, 325.55),
    (19_446_000, 255.95, 20_002_000, 238.85),
)


def test_rllib_is_the_mean_of_its_runs_between_their_reports() -> None:
    at_20_m = [
        before + (20e6 - first) / (second - first) * (after - before)
        for first, before, second, after in BREAKOUT_REPORTS
    ]
    found = curve("atari_breakout", "RLlib IMPALA")
    assert found.runs == len(at_20_m)
    assert found.at(20e6) == pytest.approx(sum(at_20_m) / 6, rel=1e-4) == pytest.approx(304.46, abs=0.01)
    assert found.at(20e6, found.low) == pytest.approx(min(at_20_m), rel=1e-4)
    assert found.at(20e6, found.high) == pytest.approx(max(at_20_m), rel=1e-4)
    assert curve("atari_space_invaders", "RLlib IMPALA").at(20e6) == pytest.approx(533.27)


def test_a_return_between_two_points_is_interpolated_and_outside_there_is_none() -> None:
    found = curve("atari_breakout", "RLlib Ape-X")
    assert found.at(20.25e6) == pytest.approx(0.75 * found.returns[19] + 0.25 * found.returns[20])
    assert [found.at(found.frames[0]), found.at(found.frames[-1])] == [found.returns[0], found.returns[-1]]
    assert [found.at(0.99e6), found.at(41e6), found.at(20e6, found.low)] == [None] * 3


@pytest.mark.parametrize("name", ["atari_breakout", "BreakoutNoFrameskip-v4", "ALE/Breakout-v5", "breakout"])
def test_a_level_is_found_under_each_of_its_names(name: str) -> None:
    assert len(published_curves(name)) == 8
    results = {result.label: (result.episode_return, result.frames) for result in published_results(name)}
    assert [results[label] for label in ("IMPALA, shallow", "CleanRL PPO")] == [(640, 200e6), (430, 40e6)]
    assert reference_returns(name) == {"human": 30.5, "random": 1.7}


@pytest.mark.parametrize(
    "name", ["catch", "CartPole-v1", "corridor", "tmaze", "atari_boxing", "atari_pong,atari_qbert"]
)
def test_a_level_without_curves_has_none(name: str) -> None:
    assert published_curves(name) == []


def test_what_no_algorithm_reached_is_a_reference() -> None:
    assert published_level("catch") == PublishedLevel({"best": 1.0}, [], [])
    assert published_level("tmaze") == NOTHING


def test_protocols_are_named_and_what_is_not_known_is_said() -> None:
    own = protocol_of_run(FLAGS)
    assert own
    lines = describe_protocols([*published_curves("atari_breakout"), *published_results("atari_breakout")], own)
    rest = "up to 30 no-ops, last 100 training episodes."
    assert lines[0] == f"RLlib: no sticky actions, a lost life ends the learned return, FIRE at reset, {rest}"
    assert lines[1].startswith("Dopamine: sticky actions 0.25, whole games, no FIRE at reset, no no-ops, ")
    assert lines[2].startswith(
        "IMPALA paper: no sticky actions, a lost life ends the learned return, FIRE at reset not "
    )
    assert "LASER paper: protocol not checked." in lines
    assert lines[-1] == f"This run: no sticky actions, a lost life ends the learned return, no FIRE at reset, {rest}"
    sticky = protocol_of_run(FLAGS | {"level_name": "ALE/Breakout-v5"})
    assert sticky and sticky.sticky_actions == 0.25
    assert protocol_of_run(FLAGS | {"level_name": "catch"}) is None


def test_the_nearest_curve_shares_the_protocol_and_then_the_algorithm() -> None:
    own = protocol_of_run(FLAGS)
    assert own
    curves = published_curves("atari_breakout")
    assert [getattr(nearest_curve(curves, own, name), "label", "") for name in ("impala", "apex", "r2d2")] == [
        "RLlib IMPALA", "RLlib Ape-X", "RLlib IMPALA",
    ]  # fmt: skip
    whole_games = own._replace(sticky_actions=0.25, life_loss_ends_return=False)
    assert getattr(nearest_curve(curves, whole_games, "impala"), "label", "") == "Dopamine DQN, CNN"
    assert nearest_curve([], own, "impala") is None


# -- drawing


@pytest.fixture
def axis() -> Any:
    """Axes with a run of 20 M frames that ends at a return of 200."""
    figure, axis = plt.subplots(figsize=(7, 4), constrained_layout=True)
    axis.plot([0, 20], [0, 200])
    yield axis
    plt.close(figure)


def test_curves_are_cut_to_the_frames_of_the_run_and_labelled_with_their_return_there(axis: Any) -> None:
    draw_published(axis, published_level("atari_breakout"), 20e6)
    run, curves = axis.lines[0], [line for line in axis.lines if len(line.get_xdata()) > 2]
    assert len(curves) == 8
    assert {max(line.get_xdata()) for line in curves} == {20.0}
    assert all(line.get_zorder() < run.get_zorder() for line in curves), "behind the run"
    labels = [text.get_text() for text in axis.texts]
    assert "RLlib IMPALA 304" in labels
    assert "Dopamine Rainbow, CNN 62.9" in labels
    assert not [label for label in labels if "CleanRL" in label], "of 40 M frames"
    assert axis.get_xlim()[1] < 20.3


def test_what_would_squeeze_the_run_is_only_named(axis: Any) -> None:
    draw_published(axis, published_level("atari_seaquest"), 20e6)
    assert axis.get_ylim()[1] < 450, "the run keeps half of the height"
    labels = [text.get_text() for text in axis.texts]
    assert f"{UP} Dopamine IQN, ResNet 24,983" in labels
    assert "random 68.4" in labels
    assert left_out(axis, published_level("atari_seaquest")) == ["human 42,055"]


def test_final_scores_are_marked_at_their_frames(axis: Any) -> None:
    axis.plot([20, 40], [200, 300])
    draw_published(axis, published_level("atari_breakout"), 40.01e6)
    assert "CleanRL PPO 430" in [text.get_text() for text in axis.texts]
    marks = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if line.get_marker() == "x"}
    assert marks == {(40, 430), (40, 385), (40, 398)}


def test_a_level_without_curves_gets_lines_alone(axis: Any) -> None:
    draw_published(axis, published_level("atari_boxing"), 20e6)
    assert sorted(text.get_text() for text in axis.texts) == ["human 12.1", "random 0.1"]


def test_labels_do_not_overlap_and_stay_within_the_chart(axis: Any) -> None:
    axis.set_ylim(0, 100)
    labels = [MarginLabel(f"label {i}", y, "0.5") for i, y in enumerate([50, 50, 50.5, 51, 99, 100, 5000, -30])]
    place_labels(axis, labels, 8)
    axis.figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in axis.texts), key=lambda box: box.y0)
    assert len(boxes) == 7, "what is below the chart has no label"
    assert all(below.y1 <= above.y0 + 0.5 for below, above in itertools.pairwise(boxes))
    assert boxes[-1].y1 <= axis.get_window_extent().y1 + 10


def test_the_table_compares_at_the_same_frames_and_says_where_a_curve_ends() -> None:
    rows = comparison_rows(published_level("atari_breakout"), 60e6)
    cells = {row[0]: row[1:5] for row in rows}
    assert cells["Dopamine DQN, CNN"][2:] == ["60 M", "Dopamine"]
    assert cells["RLlib Ape-X"][1:] == ["1", "40 M", "RLlib"]
    assert cells["IMPALA, shallow"] == ["640", "", "200 M", "IMPALA paper"]
    assert cells["R2D2"][2] == "not stated"
    early = comparison_rows(published_level("atari_breakout"), 0.5e6)
    assert next(row[0] for row in early) == "CleanRL PPO", "no curve starts before 1 M frames"


def test_a_score_without_frames_is_in_the_table_and_not_in_the_chart(axis: Any) -> None:
    result = PublishedResult("somebody", 150.0, None, published_results("atari_pong")[0].protocol, "a paper")
    draw_published(axis, PublishedLevel({}, [], [result]), 20e6)
    assert len(axis.texts) == 0
    assert comparison_rows(PublishedLevel({}, [], [result]), 20e6)[0][3] == "not stated"
