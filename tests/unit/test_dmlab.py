"""DeepMind Lab, with a fake of its module that follows the API strictly (tests/support/stand_in): calls and results."""

from __future__ import annotations

import _heapq
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlma.core.config import EnvironmentConfig, parse
from mlma.envs.failures import SimulatorLostError, find_failures
from mlma.envs.level_cache import LevelCache
from mlma.envs.reference_scores import mean_over_levels, score_table
from mlma.envs.registry import env_spec, level_names, make_env, make_for_levels
from mlma.envs.spaces import hash_words
from mlma.envs.suites.dmlab import ACTIONS, find_module, import_lab, level_script, train_to_test_levels
from mlma.envs.trial import try_levels
from mlma.envs.vector import temp_folder
from mlma.evaluation.video import short_name
from mlma.roles.preparation import prepare
from tests.support.env_steps import run as run_env
from tests.support.runs import ROOT, Process, gone, rows, wait_for

STAND_IN = Path(__file__).parents[1] / "support" / "stand_in"
FRAMES = 240  # of an episode of the stand-in
TRAIN, TEST = "rooms_collect_good_objects_train", "rooms_collect_good_objects_test"


EXTENSION = """
#include <Python.h>
static PyObject *set_runfiles_path(PyObject *module, PyObject *path) {
    return PyObject_SetAttrString(module, "runfiles", path) ? NULL : Py_NewRef(Py_None);
}
static PyMethodDef methods[] = {{"set_runfiles_path", set_runfiles_path, METH_O, ""}, {NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "deepmind_lab", NULL, -1, methods};
PyMODINIT_FUNC PyInit_deepmind_lab(void) { return PyModule_Create(&definition); }
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the fake module importable; returns the file to which it logs its calls."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.delitem(sys.modules, "deepmind_lab", raising=False)
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / "log"


def entries(log: Path, key: str) -> list[Any]:
    """The entries of the log that have this key."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if key in line]


def make_settings(tmp_path: Path, **changes: Any) -> EnvironmentConfig:
    """Settings with a level cache of their own."""
    return EnvironmentConfig(level_cache=str(tmp_path / "cache"), **changes)


def test_without_the_module_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepmind_lab", None)  # it may be installed here
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
        tmp_path, level_name=f"{TRAIN},rooms_watermaze", dataset_path=str(tmp_path), width=64, height=48
    )
    env = make_for_levels(settings, env_spec(settings), [0], 3, evaluation=True)
    env.reset()
    env.close()
    (start,) = entries(log, "start")
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


def test_eight_processes_share_a_bounded_cache_and_hit_it_after_the_first_pass(log: Path, tmp_path: Path) -> None:
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
            compiled = len(entries(log, "compiled"))
    assert [sum(pair) for pair in counts] == [48, 12]
    assert counts[0][1] == compiled >= 11
    assert len({line["compiled"] for line in entries(log, "compiled")}) <= 12
    assert counts[1] == [12, 0], "the second time all maps come from the cache"
    maps = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(maps) <= 12, "no temporary files are left"


def test_evaluation_never_repeats_a_seed_by_design(log: Path, tmp_path: Path) -> None:
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


def test_no_temporary_file_is_left_however_a_process_ends(log: Path, tmp_path: Path) -> None:
    program = (
        "import sys; import numpy as np; from mlma.core.config import EnvironmentConfig\n"
        "from mlma.envs.registry import env_spec, make_for_levels\n"
        f"settings = EnvironmentConfig(level_name='rooms_watermaze,{TRAIN}', level_cache='')\n"
        "env = make_for_levels(settings, env_spec(settings), [0, 1], 1); env.reset()\n"
        "print(*[pid for _, group, _ in env._groups for pid in group.pids()], flush=True)\n"
        "while True: env.step(np.zeros(2, int))"
    )
    temporary = tmp_path / "temporary"

    def left() -> list[Path]:
        return [path for path in temporary.iterdir() if path.name.startswith(("mlma-simulators-", "dmlab_temp"))]

    def folders() -> list[Path]:
        return list(temporary.glob("mlma-simulators-*/*/dmlab_temp_folder_*"))

    command = [sys.executable, "-c", program]
    options: Any = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(STAND_IN)}, **options) as parent:
        assert parent.stdout
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert len(folders()) == 2
        before = set(folders())
        os.kill(workers[0], signal.SIGKILL)  # the parent removes the folder of a worker that it replaces
        wait_for(lambda: len(folders()) == 2 and len(before & set(folders())) == 1, 30, lambda: str(folders()))
        parent.kill()
    wait_for(lambda: not left(), 10, lambda: str(left()))
    assert gone(workers)


def test_leftovers_of_killed_processes_are_swept_and_folders_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    leftover = tmp_path / "mlma-simulators-leftover"
    (leftover / "worker").mkdir(parents=True)
    used = temp_folder.OwnFolder()
    assert not leftover.exists()
    temp_folder.sweep()
    assert used.path.exists()
    used.close()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_closes_its_environment_on_sigterm(log: Path, tmp_path: Path) -> None:
    env: Any = make_env("rooms_watermaze", 1, 1, make_settings(tmp_path))
    env.reset()
    (folder,) = (tmp_path / "temporary").glob("*/*/dmlab_temp_folder_*")
    os.kill(env.pids()[0], signal.SIGTERM)
    wait_for(lambda: not folder.exists(), 10, lambda: f"{folder} is left")
    env.close()


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
             "--unroll_length=20", "--envs_per_actor=1", "--num_actors=2", "--popart", "--map_seeds=2"]  # fmt: skip
    logdir = tmp_path / "run"
    with Process(tmp_path, "train", *small, f"--logdir={logdir}", "--total_environment_frames=4000", env=env) as run:
        assert run.wait(200) == 0, run.text()
    last = rows(logdir)[-1]
    assert {last["score/levels"], last["score/levels"]} == {2}
    assert last[f"level_return/{TRAIN}"] >= 0
    tried = 2  # maps that the trial compiled
    compiled = len(entries(log, "compiled")) - tried
    assert last["level_cache/misses"] == compiled == 2, "the other map of each level"
    assert last["level_cache/hits"] >= 4000 // FRAMES - 4, "all other episodes"
    test = ["--mode=test", f"--config={logdir}/config.json", "--test_num_episodes=1", "--record_video"]
    with Process(tmp_path, "test", *test, env=env) as run:
        assert run.wait(200) == 0, run.text()
    (record,) = (json.loads(path.read_text()) for path in (logdir / "evaluation").glob("*.json"))
    scores = [score_table("dmlab30")[name].normalised(record["levels"][name]["mean"]) for name in levels.split(",")]
    assert record["score"]["capped"] == pytest.approx(np.mean([min(100, score) for score in scores]))
    assert f"capped {record['score']['capped']:.1f} %" in run.text()
    assert [line["start"] for line in entries(log, "start")].count(f"contributed/dmlab30/{TEST}") == 3, (
        "the trial, the evaluation and the video"
    )
    assert "no video" not in run.text(), run.text()
    assert sorted(path.parent.name for path in (logdir / "videos").rglob("best.mp4")) == sorted(levels.split(","))


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"level_name": "rooms_watermaze", "width": 90}, "--width=90: must be a multiple of 4 in DeepMind Lab"),
        (
            {"level_name": "dmlab30"},
            "--dataset_path=: is empty; the levels psychlab_arbitrary_visuomotor_mapping and "
            "psychlab_continuous_recognition need a folder of pictures",
        ),
        ({"level_name": "dmlab30", "dataset_path": "/no/such"}, "--dataset_path=/no/such: no such folder; the levels"),
        ({"level_name": "rooms_watermaze", "dmlab_path": "/no/such"}, "--dmlab_path=/no/such: has neither deepmind_l"),
        ({"level_name": TEST}, f"--level_name={TEST}: cannot be opened: RuntimeError at .*: Hold-out levels are not"),
        ({"level_name": "dmlab/no_such"}, "dmlab/no_such: cannot be opened: RuntimeError .*Failed to start level scri"),
        (
            {"level_name": "dmlab/demos/missing_map"},
            "missing_map: its process ended with code 1 while it was tried before training; its last lines: "
            r"----- Server Initialization ----- \| ERROR: Couldn't load maps/missing.bsp",
        ),
    ],
)
def test_a_level_that_cannot_start_is_found_before_training_with_the_simulators_own_words(
    log: Path, flags: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        try_levels(EnvironmentConfig(**flags))
    assert "\n" not in str(caught.value)
    assert list((log.parent / "temporary").glob("mlma*")) == []


@pytest.mark.parametrize(
    ("level", "line"),
    [
        ("no_such", "dmlab/no_such: cannot be opened: RuntimeError .*Failed to start level script"),
        ("demos/missing_map", "ended with code 1 while it was tried before evaluation; .* ERROR: Couldn't load maps/"),
    ],
)
def test_a_level_that_cannot_start_is_found_before_evaluation(log: Path, tmp_path: Path, level: str, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        prepare(parse(["--mode=test", f"--level_name=dmlab/{level}", f"--logdir={tmp_path}", "--level_cache="]))
    assert "\n" not in str(caught.value)


def test_the_test_level_is_tried_before_evaluation(log: Path, tmp_path: Path) -> None:
    prepare(parse(["--mode=test", f"--level_name={TRAIN}", f"--logdir={tmp_path}", "--level_cache="]))
    (entry,) = entries(log, "start")
    assert (entry["start"], entry["config"]["allowHoldOutLevels"]) == (f"contributed/dmlab30/{TEST}", "true")


def test_a_package_that_the_module_needs_is_named(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_WITHOUT", "dm_env")
    with pytest.raises(ValueError, match="cannot be opened: ModuleNotFoundError: No module named 'dm_env'"):
        try_levels(EnvironmentConfig(level_name="rooms_watermaze"))


def test_a_slow_level_does_not_delay_the_answer_about_another(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_COMPILE_SECONDS", "60")
    began = time.monotonic()
    with pytest.raises(ValueError, match="missing_map: its process ended with code 1"):
        try_levels(EnvironmentConfig(level_name="rooms_watermaze,dmlab/demos/missing_map", level_cache=""))
    assert time.monotonic() - began < 30


def test_a_simulator_that_dies_later_ends_with_its_last_words(log: Path, log_lines: Callable[[], list[str]]) -> None:
    env = make_env("dmlab/demos/missing_map", 1, 1, EnvironmentConfig(level_cache=""))
    with pytest.raises(SimulatorLostError) as caught:
        env.reset()
    words = "its last lines: ----- Server Initialization ----- | ERROR: Couldn't load maps/missing.bsp"
    end = f"worker ended with code 1; 3 workers in a row failed; {words} (after 0 steps in 0.0 s)"
    assert str(caught.value) == f"dmlab/demos/missing_map: {end}"
    assert any(f"starting a new worker; {words}" in line for line in log_lines())
    (failure,) = find_failures(f"Traceback\nmlma.envs.failures.SimulatorLostError: {caught.value}\n")
    assert failure.is_young
    assert failure.kind == "dmlab/demos/missing_map: worker ended with code 1; 3 workers in a row failed"
    env.close()


@pytest.mark.slow
def test_a_constructor_that_raises_in_a_worker_is_found_in_the_log(
    log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    env = make_env("dmlab/no_such", 1, 1, EnvironmentConfig(level_cache=""))
    with pytest.raises(SimulatorLostError, match="RuntimeError: Failed to start level script 'no_such'"):
        env.reset()
    env.close()
    kinds = {failure.kind for failure in find_failures(capfd.readouterr().err)}
    assert len(kinds) == 1
    assert kinds.pop().startswith("dmlab/no_such: opening it raised RuntimeError at ")


@pytest.mark.slow
def test_the_lab_is_silent_in_evaluation(log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for evaluation, count in ((True, 0), (False, 1)):
        env = make_env("rooms_watermaze", 1, 1, make_settings(tmp_path), evaluation=evaluation)
        env.reset()
        env.close()
        time.sleep(0.2)
        assert "".join(capfd.readouterr()).count("Server Initialization") == count


@pytest.mark.slow
def test_all_levels_of_an_actor_are_reset_at_once(log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    assert find_module(str(tmp_path)) is None
    assert import_lab(str(package)).found == str(package / "__init__.py")
    monkeypatch.delitem(sys.modules, "deepmind_lab")
    shutil.copy(_heapq.__file__, tmp_path / "runfiles" / "deepmind_lab.so")  # a real extension, of another name
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


def test_a_simulator_that_exits_again_and_again_ends_with_its_last_words(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_EXIT_AT_RESET", "2")
    env = make_env("rooms_watermaze", 1, 1, EnvironmentConfig(level_cache="", max_env_errors=2))
    env.reset()
    with pytest.raises(SimulatorLostError) as caught:
        run_env(env, np.zeros((200, 1), np.int32))
    env.close()
    (failure,) = find_failures(f"mlma.envs.failures.SimulatorLostError: {caught.value}\n")
    assert failure.kind == "rooms_watermaze: 2 errors of environments (--max_env_errors)"
    assert "Couldn't load maps" in failure.line
    assert failure.is_young


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "test"])
def test_a_run_with_a_lab_that_cannot_start_ends_with_code_2_in_one_line(tmp_path: Path, mode: str) -> None:
    flags = [f"--mode={mode}", "--level_name=dmlab/demos/missing_map", f"--logdir={tmp_path}/run", "--level_cache="]
    options: Any = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run(
        [sys.executable, "experiment.py", *flags], env=os.environ | {"PYTHONPATH": str(STAND_IN)}, **options
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("opening each level once")]
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert "ERROR: Couldn't load maps/missing.bsp" in lines[0]
    assert not (tmp_path / "run").exists()
