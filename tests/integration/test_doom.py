"""VizDoom: levels, rewards, and that engines leave nothing behind. Needs `make install-vizdoom`, which .ci/run does."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlma.core.config import Config, EnvironmentConfig
from mlma.envs.registry import env_spec, make_env, make_for_video
from mlma.envs.suites import doom
from mlma.envs.suites.doom import find_scenario, level_names
from tests.support.runs import ROOT, descendants, gone, wait_for

if importlib.util.find_spec("vizdoom") is None and os.environ.get("CI") != "true":
    pytest.skip("VizDoom is not installed: make install-vizdoom", allow_module_level=True)


def shared_memory_names() -> list[str]:
    """Names in /dev/shm that VizDoom created."""
    return [name for name in os.listdir("/dev/shm") if name.startswith("ViZDoom")]


@pytest.mark.parametrize("level", level_names())
def test_every_level_resets_and_steps(level: str) -> None:
    env = make_env(level, 1, 3, EnvironmentConfig())
    assert env.spec.observation == ((72, 128, 3), "uint8")
    assert env.spec.action_repeats == 4
    step = env.reset()
    first = step.observation
    for action in range(env.spec.num_actions):
        step = env.step(np.array([action]))
    env.close()
    assert step.extras["vector"][0, 0] == pytest.approx(1.0, abs=0.6), "health, divided by 100"
    assert step.observation.std() > 5, "the image is not blank"
    assert (step.observation != first).any()
    assert shared_memory_names() == []


def test_the_levels_have_the_actions_of_the_papers() -> None:
    counts = {
        name: env_spec(EnvironmentConfig(level_name=name)).num_actions for name in ("doom_basic", "doom_benchmark")
    }
    assert counts == {"doom_basic": 4, "doom_benchmark": 9}
    battle = env_spec(EnvironmentConfig(level_name="doom_battle"))
    assert battle.num_actions == 3 * 3 * 3 * 2 * 2
    assert "MOVE_FORWARD+TURN_LEFT+ATTACK" in battle.action_names


def test_shooting_the_monster_is_rewarded_and_time_limits_truncate() -> None:
    """doom_basic: -1 per frame, -5 per shot, +101 for the monster, 300 frames; rewards are scaled by 0.01."""
    env = make_env("doom_basic", 4, 3, EnvironmentConfig())
    env.reset()
    returns: dict[float, list[float]] = {0.0: [], 1.0: []}  # by discount at the end
    rng = np.random.default_rng(0)
    total = np.zeros(4)
    for _ in range(600):
        step = env.step(rng.integers(4, size=4))
        total = np.where(step.is_first, 0, total + step.reward)
        for i in np.flatnonzero(~np.isnan(step.episode_return)):
            assert step.episode_return[i] == pytest.approx(100 * total[i], abs=0.01)
            assert step.episode_frames[i] <= 300
            returns[float(step.discount[i])].append(float(step.episode_return[i]))
    env.close()
    assert returns[0.0] and returns[1.0]
    assert min(returns[0.0]) > max(returns[1.0]), "shooting the monster must be better than running out of time"


def test_episodes_can_be_repeated_and_size_and_color_mode_are_flags() -> None:
    def frames(seed: int, **flags: Any) -> Any:
        env = make_env("doom_health_gathering", 2, seed, EnvironmentConfig(**flags))
        env.reset()
        images = [env.step(np.full(2, t % 4)).observation for t in range(20)]
        env.close()
        return np.stack(images)

    first = frames(3)
    np.testing.assert_array_equal(first, frames(3))
    assert (first != frames(1000)).any()
    assert frames(3, width=40, height=30, color_mode="grey").shape == (20, 2, 30, 40, 1)


def test_a_kill_leaves_no_engine_no_shared_memory_and_no_file(tmp_path: Path) -> None:
    program = (
        "import numpy as np; from mlma.core.config import EnvironmentConfig; from mlma.envs.registry import make_env\n"
        "env = make_env('doom_basic', 4, 1, EnvironmentConfig(env_processes=2)); env.reset()\n"
        "env.step(np.zeros(4, int))\n"
        "print('up', flush=True)\n"
        "while True: env.step(np.zeros(4, int))"
    )
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"up\n"
        children = descendants(parent.pid)
        assert len(children) == 6, "two workers, four engines"
        assert shared_memory_names() == []
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: gone(children), 5, lambda: f"orphans: {children}")
    assert shared_memory_names() == []
    assert list(tmp_path.iterdir()) == []


def test_a_scenario_is_found_in_the_folder_of_the_flag(tmp_path: Path) -> None:
    path = find_scenario("doom_basic", EnvironmentConfig())
    for suffix in (".cfg", ".wad"):
        (tmp_path / path.with_suffix(suffix).name).write_bytes(path.with_suffix(suffix).read_bytes())
    assert find_scenario("doom_basic", EnvironmentConfig(doom_scenarios=str(tmp_path))) == tmp_path / "basic.cfg"
    env = make_env("doom_basic", 1, 1, EnvironmentConfig(doom_scenarios=str(tmp_path)))
    assert env.reset().observation.std() > 5
    env.close()


def test_a_missing_scenario_or_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doom, "PACKAGES", {"vizdoom": "scenarios"})
    with pytest.raises(ValueError, match=r"battle.cfg is in none of .*make install-vizdoom.*--doom_scenarios"):
        env_spec(EnvironmentConfig(level_name="doom_battle"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match="--level_name=doom_basic: needs VizDoom; install it with: make install-vizdoom"
    ):
        env_spec(EnvironmentConfig(level_name="doom_basic"))


def test_videos_repeat_the_evaluation() -> None:
    config = Config.from_flags(level_name="doom_basic", width=40, height=30)
    evaluated = make_env("doom_basic", 2, 7, config.environment, evaluation=True)
    repeated = make_for_video("doom_basic", 2, 7, config.environment)
    evaluated.reset(), repeated.reset()
    rng, rewards = np.random.default_rng(1), []
    for _ in range(100):
        action = rng.integers(4, size=2)
        expected, actual = evaluated.step(action), repeated.step(action)
        np.testing.assert_array_equal(expected.observation, actual.observation)
        rewards.append(expected.reward)
    image = repeated.render(1)  # type: ignore[attr-defined]
    assert (image.shape, image.dtype) == ((120, 160, 3), np.uint8)
    assert np.ptp(rewards) > 0
    evaluated.close()
    repeated.close()


def test_shared_memory_of_workers_killed_while_starting_is_removed() -> None:
    old, new = (Path(f"/dev/shm/ViZDoomTest{os.getpid()}{age}") for age in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (1, 1))
    try:
        env = make_env("doom_basic", 1, 3, EnvironmentConfig())
        env.reset()
        env.close()
        assert not old.exists()
        assert new.exists(), "another worker may be starting"
    finally:
        for path in (old, new):
            path.unlink(missing_ok=True)
