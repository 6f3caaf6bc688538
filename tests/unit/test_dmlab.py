"""DeepMind Lab, with a fake of its module that follows the API strictly (tests/support/stand_in): calls and results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlma.acting.telemetry import LevelCacheReport
from mlma.core.config import EnvironmentConfig
from mlma.envs.level_cache import LevelCache
from mlma.envs.reference_scores import mean_over_levels, score_table
from mlma.envs.registry import env_spec, level_names, make_env, make_for_levels
from mlma.envs.spaces import hash_words
from mlma.envs.suites.dmlab import ACTIONS, find_module, import_lab, level_script, train_to_test_levels
from mlma.evaluation.video import short_name
from tests.support.lab import STAND_IN, TEST, TRAIN, entries, make_settings
from tests.support.runs import ROOT, Process, rows

FRAMES = 240  # of an episode of the stand-in


EXTENSION = """
#include <Python.h>
static PyObject *set_runfiles_path(PyObject *module, PyObject *path) {
    return PyObject_SetAttrString(module, "runfiles", path) ? NULL : Py_NewRef(Py_None);
}
static PyMethodDef methods[] = {{"set_runfiles_path", set_runfiles_path, METH_O, ""}, {NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "deepmind_lab", NULL, -1, methods};
PyMODINIT_FUNC PyInit_deepmind_lab(void) { return PyModule_Create(&definition); }
"""


def test_without_the_module_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepmind_lab", None)  # it may be installed here
    with pytest.raises(ValueError, match=f"--level_name={TRAIN}: needs the module deepmind_lab") as caught:
        env_spec(EnvironmentConfig(level_name=TRAIN))
    assert "\n" not in str(caught.value)


def test_a_level_has_the_nine_actions_of_the_paper_and_ends_at_its_time_limit(lab_log: Path, tmp_path: Path) -> None:
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
    assert len(entries(lab_log, "start")) == 2, "one process for each environment"
    assert len({line["pid"] for line in entries(lab_log, "start")}) == 2
    assert entries(lab_log, "start")[0]["config"] == {"width": "96", "height": "72"}
    assert entries(lab_log, "start")[0]["start"] == "contributed/dmlab30/explore_goal_locations_small"


def test_evaluation_uses_the_test_level_with_holdouts_and_the_published_seed(lab_log: Path, tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path, level_name=f"{TRAIN},rooms_watermaze", dataset_path=str(tmp_path), width=64, height=48
    )
    env = make_for_levels(settings, env_spec(settings), [0], 3, evaluation=True)
    env.reset()
    env.close()
    (start,) = entries(lab_log, "start")
    assert start["start"] == f"contributed/dmlab30/{TEST}"
    mixer = str(int("600D5EED", 16))
    assert start["config"] == {
        "width": "64", "height": "48", "allowHoldOutLevels": "true", "mixerSeed": mixer, "datasetPath": str(tmp_path)
    }  # fmt: skip


def test_every_level_of_dmlab30_has_its_names() -> None:
    assert len(level_names("dmlab30")) == 30
    for train, test in train_to_test_levels().items():
        for name in (train, f"contributed/dmlab30/{train}"):
            assert level_script(name, evaluation=False) == f"contributed/dmlab30/{train}"
            assert level_script(name, evaluation=True) == f"contributed/dmlab30/{test}"
    assert level_script("dmlab/seekavoid_arena_01", evaluation=True) == "seekavoid_arena_01"
    assert level_script("CartPole-v1", evaluation=False) is None


def test_eight_processes_share_a_bounded_cache_and_hit_it_after_the_first_pass(lab_log: Path, tmp_path: Path) -> None:
    level, map_bytes = "rooms_watermaze", 32 * 1000
    settings = make_settings(tmp_path, map_seeds=12, level_cache_gb=14 * map_bytes / 1e9)
    counts = []
    for seed, num_envs in ((1, 8), (1000, 2)):
        env: Any = make_env(level, num_envs, seed, settings)
        env.reset()
        for _ in range(61 * 5):  # six episodes each; the fake refuses incomplete maps
            env.step(np.zeros(num_envs, int))
        assert not env.crashed.any()
        counts.append(env.level_cache_counts().tolist())
        env.close()
        if seed == 1:
            compiled = len(entries(lab_log, "compiled"))
    assert [sum(pair) for pair in counts] == [48, 12]
    assert counts[0][1] == compiled >= 11
    assert len({line["compiled"] for line in entries(lab_log, "compiled")}) <= 12
    assert counts[1] == [12, 0], "the second time all maps come from the cache"
    maps = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(maps) <= 12, "no temporary files are left"


def test_an_actor_reports_hits_and_misses_once() -> None:
    counts: list[int] = [0, 0]
    env = SimpleNamespace(level_cache_counts=lambda: np.array(counts))
    report = LevelCacheReport(env)
    assert report.news() == {}
    counts = [2, 1]
    assert [report.news(), report.news()] == [{"level_cache": [2, 1]}, {}]
    counts = [2, 4]
    assert report.news() == {"level_cache": [0, 3]}
    assert LevelCacheReport(object()).news() == {}, "environments without such a cache"


def test_evaluation_never_repeats_a_seed_by_design(lab_log: Path, tmp_path: Path) -> None:
    env: Any = make_env("rooms_watermaze", 1, 1, make_settings(tmp_path, map_seeds=1), evaluation=True)
    env.reset()
    for _ in range(61):
        env.step(np.zeros(1, int))
    assert env.level_cache_counts().tolist() == [0, 2]
    env.close()


def test_the_maps_that_were_not_used_for_longest_are_removed(tmp_path: Path) -> None:
    cache, pk3, now = LevelCache(tmp_path / "cache", 10_000), tmp_path / "pk3", time.time()
    pk3.write_bytes(bytes(1000))
    for number in range(10):
        cache.write(f"map {number}", str(pk3))
        os.utime(cache._path(f"map {number}"), (now - 100 + number,) * 2)
    assert cache.fetch("map 0", str(tmp_path / "copy"))
    cache.write("map 10", str(pk3))
    found = [number for number in range(11) if cache.fetch(f"map {number}", str(tmp_path / "copy"))]
    assert found == [0, *range(3, 11)], "nine tenths of the limit are kept"
    assert (cache.hits, cache.misses) == (10, 2)
    huge = LevelCache(tmp_path / "huge", 10)
    huge.write("a", str(pk3))
    huge.write("b", str(pk3))
    assert [huge.fetch(key, str(tmp_path / "copy")) for key in "ab"] == [False, True]


def test_an_unwritable_cache_is_logged_and_ignored(
    lab_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
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


def test_two_levels_are_trained_on_and_evaluated(lab_log: Path, tmp_path: Path) -> None:
    levels = f"{TRAIN},explore_goal_locations_small"
    env = {"PYTHONPATH": str(STAND_IN), "STAND_IN_LOG": str(lab_log)}
    small = [f"--level_name={levels}", f"--level_cache={tmp_path}/cache", "--width=32", "--height=24", "--batch_size=2",
             "--unroll_length=20", "--envs_per_actor=2", "--num_actors=1", "--popart", "--map_seeds=2"]  # fmt: skip
    logdir = tmp_path / "run"
    with Process(tmp_path, "train", *small, f"--logdir={logdir}", "--total_environment_frames=4000", env=env) as run:
        assert run.wait(200) == 0, run.text()
    last = rows(logdir)[-1]
    assert {last["score/levels"], last["score/levels"]} == {2}
    assert last[f"level_return/{TRAIN}"] >= 0
    tried = 2  # maps that the trial compiled
    compiled = len(entries(lab_log, "compiled")) - tried
    assert last["level_cache/misses"] == compiled == 2, "the other map of each level"
    assert last["level_cache/hits"] >= 4000 // FRAMES - 4, "all other episodes"
    test = ["--mode=test", f"--config={logdir}/config.json", "--test_num_episodes=1", "--record_video"]
    with Process(tmp_path, "test", *test, env=env) as run:
        assert run.wait(200) == 0, run.text()
    (record,) = (json.loads(path.read_text()) for path in (logdir / "evaluation").glob("*.json"))
    scores = [score_table("dmlab30")[name].normalised(record["levels"][name]["mean"]) for name in levels.split(",")]
    assert record["score"]["capped"] == pytest.approx(np.mean([min(100, score) for score in scores]))
    assert f"capped {record['score']['capped']:.1f} %" in run.text()
    assert [line["start"] for line in entries(lab_log, "start")].count(f"contributed/dmlab30/{TEST}") == 3, (
        "the trial, the evaluation and the video"
    )
    assert "no video" not in run.text(), run.text()
    assert sorted(path.parent.name for path in (logdir / "videos").rglob("best.mp4")) == sorted(levels.split(","))


@pytest.mark.slow
def test_the_lab_is_silent_in_evaluation(lab_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for evaluation, count in ((True, 0), (False, 1)):
        env = make_env("rooms_watermaze", 1, 1, make_settings(tmp_path), evaluation=evaluation)
        env.reset()
        env.close()
        time.sleep(0.2)
        assert "".join(capfd.readouterr()).count("Server Initialization") == count


@pytest.mark.slow
def test_all_levels_of_an_actor_are_reset_at_once(
    lab_log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STAND_IN_COMPILE_SECONDS", "3")
    names = "rooms_watermaze,explore_goal_locations_small,explore_object_rewards_few"
    settings = EnvironmentConfig(level_name=names, level_cache="")
    env = make_for_levels(settings, env_spec(settings), range(3), 1)
    env.reset()  # which also starts the processes
    began = time.monotonic()
    env.reset()
    assert time.monotonic() - began < 7, "not three times three seconds"
    assert env.level_cache_counts().tolist() == [0, 0]  # type: ignore[attr-defined]
    env.close()


def test_the_module_is_found_at_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "deepmind_lab", raising=False)
    monkeypatch.setattr("sys.path", list(sys.path))
    for folder in ("bare", "runfiles", "site/deepmind_lab"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "deepmind_lab.so").write_bytes(b"")
    package = tmp_path / "site" / "deepmind_lab"
    (package / "__init__.py").write_text("found = __file__")
    bare = tmp_path / "bare" / "deepmind_lab.so"
    assert find_module(str(bare)) == find_module(str(bare.parent)) == bare
    assert find_module(str(package.parent)) == find_module(str(package)) == package
    file_in_package = package / "deepmind_lab.so"
    assert find_module(str(file_in_package)) == file_in_package, "its file is meant, not the package around it"
    assert find_module(str(tmp_path)) is None
    assert import_lab(str(package)).found == str(package / "__init__.py")
    monkeypatch.delitem(sys.modules, "deepmind_lab")
    extension = sys.modules["numpy._core._multiarray_umath"].__file__  # a real one, of another name
    assert extension
    shutil.copy(extension, tmp_path / "runfiles" / "deepmind_lab.so")
    with pytest.raises(ImportError, match="PyInit_deepmind_lab"):
        import_lab(str(tmp_path / "runfiles"))
    monkeypatch.setitem(sys.modules, "deepmind_lab", None)
    with pytest.raises(ValueError, match="name its folder with --dmlab_path"):
        env_spec(EnvironmentConfig(level_name=TRAIN))
    assert env_spec(EnvironmentConfig(level_name=TRAIN, dmlab_path=str(bare)))


def test_a_bare_extension_that_was_really_compiled_is_loaded(tmp_path: Path) -> None:
    compiler, include = shutil.which("cc"), sysconfig.get_paths()["include"]
    if os.environ.get("CI") != "true" and (compiler is None or not Path(include, "Python.h").exists()):
        pytest.skip("no C compiler or no headers of Python")
    assert compiler
    (tmp_path / "lab.c").write_text(EXTENSION)
    output = tmp_path / "deepmind_lab.so"
    subprocess.run([compiler, "-shared", "-fPIC", f"-I{include}", "-o", output, tmp_path / "lab.c"], check=True)
    (tmp_path / "baselab").mkdir()
    program = (
        "import sys; from mlma.envs.suites.dmlab import import_lab\n"
        f"lab = import_lab({str(tmp_path)!r})\n"
        f"assert lab is import_lab({str(output)!r}) is sys.modules['deepmind_lab']\n"
        "print(lab.__file__, lab.runfiles)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{output} {tmp_path}\n", 0), done.stderr


def test_the_actions_have_different_names_in_a_video() -> None:
    names = [short_name(name) for name in ACTIONS]
    assert names[6:8] == ["f_look_left", "f_look_right"]
    assert len(set(names)) == len(names) == 9
    assert max(map(len, names)) <= 12
    assert short_name("DOWNRIGHTFIRE") == "DOWNRIGHTFIR"
