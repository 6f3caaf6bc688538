"""DeepMind Lab, with a fake of its module that follows the API strictly (tests/support/stand_in): calls and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlma.core.config import EnvironmentConfig
from mlma.envs.reference_scores import mean_over_levels, score_table
from mlma.envs.registry import env_spec, level_names, make_env, make_for_levels
from mlma.envs.spaces import hash_words
from mlma.envs.suites.dmlab import level_script, train_to_test_levels
from tests.support.runs import Process, rows

STAND_IN = Path(__file__).parents[1] / "support" / "stand_in"
TRAIN, TEST = "rooms_collect_good_objects_train", "rooms_collect_good_objects_test"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the fake module importable; returns the file to which it logs its calls."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def entries(log: Path, key: str) -> list[Any]:
    """The entries of the log that have this key."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if key in line]


def make_settings(tmp_path: Path, **changes: Any) -> EnvironmentConfig:
    """Settings with a level cache of their own."""
    return EnvironmentConfig(level_cache=str(tmp_path / "cache"), **changes)


def test_without_the_module_the_error_is_one_line() -> None:
    with pytest.raises(ValueError, match=f"--level_name={TRAIN}: needs the module deepmind_lab") as caught:
        env_spec(EnvironmentConfig(level_name=TRAIN))
    assert "\n" not in str(caught.value)


def test_a_level_has_the_nine_actions_of_the_paper_and_ends_at_its_time_limit(log: Path, tmp_path: Path) -> None:
    env = make_env("explore_goal_locations_small", 2, 3, make_settings(tmp_path))
    assert env.spec[:3] == (((72, 96, 3), "uint8"), 9, 4)
    step = env.reset()
    np.testing.assert_array_equal(step.extras["words"], [hash_words("go to the green line")] * 2)
    assert step.observation[0, :, :, 0].max() == 255
    total, lengths = np.zeros(2), []
    for t in range(125):
        assert (step.is_first == (t % 61 == 0)).all(), t
        step = env.step(np.zeros(2, int))  # forward, in a circle
        total = np.where(step.is_first, 0, total + step.reward)
        if t % 61 == 59:
            np.testing.assert_array_equal(step.episode_return, total)
            np.testing.assert_array_equal(step.discount, 0)
            lengths += step.episode_frames.tolist()
    env.close()
    assert lengths == [240] * 4
    assert total.max() > 0
    assert len(entries(log, "start")) == 2, "one process for each environment"
    assert len({line["pid"] for line in entries(log, "start")}) == 2
    assert entries(log, "start")[0]["config"] == {"width": "96", "height": "72"}
    assert entries(log, "start")[0]["start"] == "contributed/dmlab30/explore_goal_locations_small"


def test_evaluation_uses_the_test_level_with_holdouts_and_the_published_seed(log: Path, tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path, level_name=f"{TRAIN},rooms_watermaze", dataset_path="/images", width=64, height=48
    )
    env = make_for_levels(settings, env_spec(settings), [0], 3, evaluation=True)
    env.reset()
    env.close()
    (start,) = entries(log, "start")
    assert start["start"] == f"contributed/dmlab30/{TEST}"
    mixer = str(int("600D5EED", 16))
    assert start["config"] == {
        "width": "64", "height": "48", "allowHoldOutLevels": "true", "mixerSeed": mixer, "datasetPath": "/images"
    }  # fmt: skip


def test_every_level_of_dmlab30_has_its_names() -> None:
    assert len(level_names("dmlab30")) == 30
    for train, test in train_to_test_levels().items():
        for name in (train, f"contributed/dmlab30/{train}"):
            assert level_script(name, evaluation=False) == f"contributed/dmlab30/{train}"
            assert level_script(name, evaluation=True) == f"contributed/dmlab30/{test}"
    assert level_script("dmlab/seekavoid_arena_01", evaluation=True) == "seekavoid_arena_01"
    assert level_script("CartPole-v1", evaluation=False) is None


def test_eight_processes_share_the_cache_and_no_map_is_ever_incomplete(log: Path, tmp_path: Path) -> None:
    level = "rooms_watermaze"
    for seed in (1, 1000):
        env = make_env(level, 8, seed, make_settings(tmp_path))
        env.reset()
        for _ in range(125):  # three episodes each; the fake refuses incomplete maps
            env.step(np.zeros(8, int))
        assert not env.crashed.any()  # type: ignore[attr-defined]
        env.close()
        if seed == 1:
            compiled = len(entries(log, "compiled"))
    assert 3 <= compiled <= 24
    assert len(entries(log, "compiled")) == compiled, "the second time all maps come from the cache"
    maps = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(maps) == 3, "no temporary files are left"


def test_an_unwritable_cache_is_logged_and_ignored(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    env = make_env("rooms_watermaze", 1, 1, EnvironmentConfig(level_cache=str(tmp_path / "file" / "cache")))
    env.reset()
    env.close()
    log_text = capfd.readouterr().err
    assert f"could not add a map to the level cache {tmp_path}/file/cache: " in log_text
    assert "Not a directory" in log_text


def test_the_capped_score_is_computed_over_the_levels() -> None:
    returns = {
        TEST: 10.0,
        "rooms_watermaze": 4.065,
        "explore_goal_locations_small": 1e6,
    }  # human, random, far above human
    score = mean_over_levels(returns)
    assert score
    assert score.mean_capped == pytest.approx((100 + 0 + 100) / 3)
    assert score.median == pytest.approx(100)
    assert mean_over_levels(returns | {"CartPole-v1": 1.0}) is None


def test_two_levels_are_trained_on_and_evaluated(log: Path, tmp_path: Path) -> None:
    levels = f"{TRAIN},explore_goal_locations_small"
    env = {"PYTHONPATH": str(STAND_IN), "STAND_IN_LOG": str(log)}
    small = [f"--level_name={levels}", f"--level_cache={tmp_path}/cache", "--width=32", "--height=24", "--batch_size=2",
             "--unroll_length=20", "--envs_per_actor=1", "--num_actors=2", "--popart"]  # fmt: skip
    logdir = tmp_path / "run"
    with Process(tmp_path, "train", *small, f"--logdir={logdir}", "--total_environment_frames=4000", env=env) as run:
        assert run.wait(200) == 0, run.text()
    last = rows(logdir)[-1]
    assert {last["score/levels"], last["score/levels"]} == {2}
    assert last[f"level_return/{TRAIN}"] >= 0
    test = ["--mode=test", f"--config={logdir}/config.json", "--test_num_episodes=1", "--record_video"]
    with Process(tmp_path, "test", *test, env=env) as run:
        assert run.wait(200) == 0, run.text()
    (record,) = (json.loads(path.read_text()) for path in (logdir / "evaluation").glob("*.json"))
    scores = [score_table("dmlab30")[name].normalised(record["levels"][name]["mean"]) for name in levels.split(",")]
    assert record["score"]["capped"] == pytest.approx(np.mean([min(100, score) for score in scores]))
    assert f"capped {record['score']['capped']:.1f} %" in run.text()
    assert [line["start"] for line in entries(log, "start")].count(f"contributed/dmlab30/{TEST}") == 2, (
        "evaluation and video"
    )
    assert "no video" not in run.text(), run.text()
    assert sorted(path.parent.name for path in (logdir / "videos").rglob("best.mp4")) == sorted(levels.split(","))
