"""The stand-in for DeepMind Lab behaves as the real module was measured to; other tests rely on it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STAND_IN = Path(__file__).parents[1] / "support" / "stand_in"
LEVEL = "contributed/dmlab30/rooms_watermaze"
HOLDOUT = "contributed/dmlab30/rooms_collect_good_objects_test"
PICTURES = "contributed/dmlab30/psychlab_continuous_recognition"
FORWARD = np.array([0, 0, 0, 1, 0, 0, 0], np.intc)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The stand-in, with temporary files of its own."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.delitem(sys.modules, "deepmind_lab", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    module = importlib.import_module("deepmind_lab")
    yield module
    del sys.modules["deepmind_lab"]


def make(module: Any, level: str = LEVEL, observations: Any = ("RGB_INTERLEAVED", "INSTR"), **arguments: Any) -> Any:
    return module.Lab(level, list(observations), **arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"observations": ["COLOURS"]}, ValueError),
        ({"renderer": "quantum"}, RuntimeError),
        ({"config": None}, TypeError),
        ({"config": {"width": 96}}, TypeError),
        ({"config": {"width": "90"}}, RuntimeError),
        ({"level": "contributed/dmlab30/no_such"}, RuntimeError),
        ({"level": "rooms_watermaze"}, RuntimeError),
        ({"level": HOLDOUT}, RuntimeError),
        ({"level": PICTURES}, RuntimeError),
        ({"level": PICTURES, "config": {"datasetPath": "/no/such"}}, RuntimeError),
    ],
)
def test_the_constructor_refuses(module: Any, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        make(module, **arguments)


def test_the_constructor_accepts(module: Any, tmp_path: Path) -> None:
    for arguments in (
        {"renderer": ""},
        {"level_cache": object()},
        {"level": HOLDOUT, "config": {"allowHoldOutLevels": "true"}},
        {"level": PICTURES, "config": {"datasetPath": str(tmp_path)}},
    ):
        make(module, **arguments).close()
    lab = make(module, level_cache=object())
    with pytest.raises(AttributeError):
        lab.reset()


def test_seeds_and_actions(module: Any) -> None:
    lab = make(module)
    for seed in ("3", 3.0, np.int64(3)):
        with pytest.raises(ValueError, match="seed"):
            lab.reset(seed=seed)
    with pytest.raises(OverflowError):
        lab.reset(seed=2**63)
    assert lab.reset(seed=-1)
    with pytest.raises(TypeError):
        lab.step(list(FORWARD))
    with pytest.raises(ValueError, match="intc"):
        lab.step(FORWARD.astype(np.int64))
    lab.step(1000 * FORWARD)


def test_before_reset_and_after_close(module: Any) -> None:
    lab = make(module)
    assert (lab.num_steps(), lab.is_running(), len(lab.observation_spec())) == (0, False, 43)
    assert len({spec["name"] for spec in lab.observation_spec()}) == 43
    for call in (lab.events, lab.observations, lambda: lab.step(FORWARD)):
        with pytest.raises(RuntimeError):
            call()
    lab.reset(seed=1)
    assert (lab.events(), sorted(lab.observations())) == ([], ["INSTR", "RGB_INTERLEAVED"])
    assert (lab.close(), lab.close()) == (True, False)


@pytest.mark.parametrize(
    ("code", "ends_with"),
    [
        ("lab = Lab('demos/missing_map', []); lab.reset()", 1),
        (f"lab = Lab('{LEVEL}', []); lab.close(); lab.reset()", -6),
    ],
)
def test_what_ends_the_process(code: str, ends_with: int, tmp_path: Path) -> None:
    program = f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); from deepmind_lab import Lab; {code}"
    environment = os.environ | {"PYTHONPATH": str(STAND_IN), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert done.returncode == ends_with, done.stderr
    assert (b"ERROR: Couldn't load maps" in done.stdout) == (ends_with == 1)


def test_its_temporary_folder_is_removed_only_by_close(module: Any, tmp_path: Path) -> None:
    labs = [make(module), make(module)]
    assert len(list(tmp_path.glob("dmlab_temp_folder_*"))) == 2
    labs[0].close()
    assert len(list(tmp_path.glob("dmlab_temp_folder_*"))) == 1
    given = tmp_path / "given"
    given.mkdir()
    make(module, temp_folder=str(given)).close()
    assert given.exists()
    labs[1].close()


class Calls:
    """A level cache without maps that records its calls."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.written: list[str] = []

    def fetch(self, key: str, path: str) -> bool:
        self.fetched.append(key)
        assert not os.path.exists(path)
        return False

    def write(self, key: str, path: str) -> None:
        self.written.append(key)
        assert os.path.exists(path)


def test_language_levels_compile_in_the_middle_of_an_episode_and_a_second_has_60_frames(module: Any) -> None:
    cache = Calls()
    lab = make(module, "contributed/dmlab30/language_execute_random_task", level_cache=cache)
    lab.reset(seed=1)
    assert len(cache.fetched) == 1
    lab.step(FORWARD, num_steps=121)
    assert len(cache.fetched) == 2
    assert cache.written == cache.fetched
    lab.step(FORWARD, num_steps=200)  # cut at the end
    assert (lab.num_steps(), lab.is_running()) == (240, False)
    slow = make(module, config={"fps": "30"})
    slow.reset(seed=1)
    slow.step(FORWARD, num_steps=1000)
    assert slow.num_steps() == 120
