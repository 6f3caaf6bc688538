"""VizDoom: its levels, what they pay, and that nothing of it is left. Needs `make install-vizdoom`, as .ci/run does."""

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


def leftovers() -> list[str]:
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
    assert step.extras["vector"][0, 0] == pytest.approx(1.0, abs=0.6), "health, in hundreds"
    assert step.observation.std() > 5, "something is to be seen"
    assert (step.observation != first).any()
    assert leftovers() == []


def test_the_levels_have_the_actions_that_papers_use() -> None:
    counts = {name: env_spec(EnvironmentConfig(level_name=name)).num_actions for name in ("doom_basic", "doom_benchmark")}
    assert counts == {"doom_basic": 4, "doom_benchmark": 9}
    battle = env_spec(EnvironmentConfig(level_name="doom_battle"))
    assert battle.num_actions == 3 * 3 * 3 * 2 * 2
    assert "MOVE_FORWARD+TURN_LEFT+ATTACK" in battle.action_names


def test_shooting_the_monster_pays_and_time_outs_are_no_ends() -> None:
    """doom_basic: -1 a frame, -5 a shot, +101 for the monster, 300 frames; learned from in hundredths."""
    env = make_env("doom_basic", 4, 3, EnvironmentConfig())
    env.reset()
    ends: dict[float, list[float]] = {0.0: [], 1.0: []}
    rng = np.random.default_rng(0)
    total = np.zeros(4)
    for _ in range(600):
        step = env.step(rng.integers(4, size=4))
        total = np.where(step.is_first, 0, total + step.reward)
        for i in np.flatnonzero(~np.isnan(step.episode_return)):
            assert step.episode_return[i] == pytest.approx(100 * total[i], abs=0.01)
            assert step.episode_frames[i] <= 300
            ends[float(step.discount[i])].append(float(step.episode_return[i]))
    env.close()
    assert ends[0.0] and ends[1.0]
    assert min(ends[0.0]) > max(ends[1.0]), "who shot the monster did better than who ran out of time"


def test_games_can_be_repeated_and_size_and_colours_are_flags() -> None:
    def frames(seed: int, **flags: Any) -> Any:
        env = make_env("doom_health_gathering", 2, seed, EnvironmentConfig(**flags))
        env.reset()
        found = [env.step(np.full(2, t % 4)).observation for t in range(20)]
        env.close()
        return np.stack(found)

    one = frames(3)
    np.testing.assert_array_equal(one, frames(3))
    assert (one != frames(1000)).any()
    assert frames(3, width=40, height=30, color_mode="grey").shape == (20, 2, 30, 40, 1)


def test_a_kill_leaves_no_engine_no_shared_memory_and_no_file(tmp_path: Path) -> None:
    program = (
        "import numpy as np; from mlma import envs; from mlma.core.config import Config\n"
        "env = envs.make('doom_basic', 4, 1, Config(env_processes=2)); env.reset(); env.step(np.zeros(4, int))\n"
        "print('up', flush=True)\n"
        "while True: env.step(np.zeros(4, int))"
    )
    words = [sys.executable, "-c", program]
    there = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, env=there) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"up\n"
        children = descendants(parent.pid)
        assert len(children) == 6, "two workers, four engines"
        assert leftovers() == []
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: gone(children), 5, lambda: f"orphans: {children}")
    assert leftovers() == []
    assert list(tmp_path.iterdir()) == []


def test_a_scenario_is_looked_for_in_the_folder_that_the_user_names(tmp_path: Path) -> None:
    path = find_scenario("doom_basic", EnvironmentConfig())
    for kind in (".cfg", ".wad"):
        (tmp_path / path.with_suffix(kind).name).write_bytes(path.with_suffix(kind).read_bytes())
    assert find_scenario("doom_basic", EnvironmentConfig(doom_scenarios=str(tmp_path))) == tmp_path / "basic.cfg"
    env = make_env("doom_basic", 1, 1, EnvironmentConfig(doom_scenarios=str(tmp_path)))
    assert env.reset().observation.std() > 5
    env.close()


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doom, "PACKAGES", {"vizdoom": "scenarios"})
    with pytest.raises(ValueError, match=r"battle.cfg is in none of .*make install-vizdoom.*--doom_scenarios"):
        env_spec(EnvironmentConfig(level_name="doom_battle"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--level_name=doom_basic: needs VizDoom; install it with: make install-vizdoom"):
        env_spec(EnvironmentConfig(level_name="doom_basic"))


def test_games_are_filmed_as_they_were_played() -> None:
    config = Config.from_flags(level_name="doom_basic", width=40, height=30)
    played, filmed = (
        make_env("doom_basic", 2, 7, config.environment, evaluation=True),
        make_for_video("doom_basic", 2, 7, config.environment),
    )
    played.reset(), filmed.reset()
    rng, rewards = np.random.default_rng(1), []
    for _ in range(100):
        action = rng.integers(4, size=2)
        one, two = played.step(action), filmed.step(action)
        np.testing.assert_array_equal(one.observation, two.observation)
        rewards.append(one.reward)
    picture = filmed.render(1)  # type: ignore[attr-defined]
    assert (picture.shape, picture.dtype) == ((120, 160, 3), np.uint8)
    assert np.ptp(rewards) > 0
    played.close()
    filmed.close()


def test_what_a_worker_left_that_was_ended_while_it_started_is_swept_up() -> None:
    old, new = (Path(f"/dev/shm/ViZDoomTest{os.getpid()}{age}") for age in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (1, 1))
    try:
        env = make_env("doom_basic", 1, 3, EnvironmentConfig())
        env.reset()
        env.close()
        assert not old.exists()
        assert new.exists(), "somebody may just be starting"
    finally:
        for path in (old, new):
            path.unlink(missing_ok=True)
