"""Level names, and several levels in one run: assignment to environments, actions, and reports for each level."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlma.acting.trajectory_writer import env_indices
from mlma.core.config import Config, EnvironmentConfig
from mlma.core.presets.resolve import resolve
from mlma.core.types import ArraySpec, EnvSpec, TimeStep
from mlma.envs.registry import env_spec, level_names, make_env, make_for_levels
from mlma.envs.vector.multi_level import MultiLevelVectorEnv, merge_specs
from tests.support.runs import Process, rows
from tests.support.samples import Rows, make_metrics

THREE = "atari_pong,atari_breakout,ALE/Boxing-v5"


def make_spec(names: tuple[str, ...], **changes: Any) -> EnvSpec:
    """A spec with these actions."""
    return EnvSpec(ArraySpec((2,), "float32"), len(names), 1, action_names=names)._replace(**changes)


class Echo:
    """Observes [number of the environment, its last action]; an episode has 3 steps."""

    def __init__(self, spec: EnvSpec, numbers: Any) -> None:
        self.spec, self.num_envs, self._numbers = spec, len(numbers), np.asarray(numbers)

    def reset(self) -> TimeStep:
        self._t = 0
        return self._timestep(np.full(self.num_envs, 9))

    def step(self, action: Any) -> TimeStep:
        self._t += 1
        assert (action < self.spec.num_actions).all()
        return self._timestep(np.asarray(action))

    def _timestep(self, action: Any) -> TimeStep:
        first = np.full(self.num_envs, self._t % 4 == 0)
        zeros = np.zeros(self.num_envs, np.float32)
        observation = np.stack([self._numbers, action], axis=1).astype(np.float32)
        last_action = np.where(first, 0, action).astype(np.int32)
        return TimeStep(observation, zeros, zeros + 1, first, last_action, zeros, zeros.astype(np.int32))

    def close(self) -> None:
        self.spec = None  # type: ignore[assignment]


def test_a_set_stands_for_its_levels_and_can_be_part_of_a_list() -> None:
    assert len(level_names("atari57")) == 57
    assert level_names("atari57")[:2] == ["atari_alien", "atari_amidar"]
    assert level_names("catch, tmaze") == ["catch", "tmaze"]
    assert level_names("atari57,atari_adventure")[-1] == "atari_adventure"
    with pytest.raises(ValueError, match="--level_name=atari57,atari_pong: atari_pong twice"):
        level_names("atari57,atari_pong")


def test_a_module_registers_its_levels() -> None:
    spec = env_spec(EnvironmentConfig(level_name="tests.support.levels:Dark-v0"))
    assert spec.observation == ((40, 40, 3), "uint8")
    assert set(spec.extras) == {"vector", "words"}
    assert spec.num_actions == 6


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ("nowhere.at_all:Dark-v0", "cannot import nowhere.at_all"),
        ("tests.support.levels:Drak-v0", "tests.support.levels registers no Drak-v0"),
        ("doom_batle", "nearest: doom_battle"),
        ("atari58", "nearest: atari57"),
        ("catch,CartPole-v1", "observations differ: catch has 50 float32, CartPole-v1 has 4 float32"),
        ("coridor", "--level_name=help lists them"),
    ],
)
def test_a_wrong_name_is_answered_in_one_line(level: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^--level_name") as caught:
        env_spec(EnvironmentConfig(level_name=level))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_id_whose_package_is_missing_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("mujoco", "gymnasium.envs.mujoco"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"--level_name=Ant-v5: .*MuJoCo is not installed") as caught:
        env_spec(EnvironmentConfig(level_name="Ant-v5"))
    assert "\n" not in str(caught.value)


def test_help_lists_every_name_and_exits_with_zero(tmp_path: Path) -> None:
    with Process(tmp_path, "help", "--level_name=help") as run:
        assert run.wait(60) == 0
    for name in (
        "atari57",
        "dmlab30",
        "corridor",
        "atari_pong",
        "doom_basic",
        "rooms_watermaze",
        "CartPole-v1",
        "module:Id",
    ):
        assert name in run.text()


def test_the_actions_of_several_levels_are_merged_by_name() -> None:
    merged = merge_specs({"one": make_spec(("NOOP", "LEFT")), "two": make_spec(("NOOP", "UP", "LEFT"))})
    assert merged.action_names == ("NOOP", "LEFT", "UP")
    assert merged.actions_by_level == ((0, 1), (0, 2, 1))
    assert merged.extras == {"level": ((), "int32")}
    larger = ArraySpec((3,), "float32")
    for changes, message in (({"action_repeats": 4}, "frames per step"), ({"observation": larger}, "observations")):
        with pytest.raises(ValueError, match=f"{message} differ: one has .*, two has "):
            merge_specs({"one": make_spec(("NOOP",)), "two": make_spec(("NOOP",), **changes)})


def test_every_level_gets_its_own_actions_and_reports_merged_ones() -> None:
    specs = {"one": make_spec(("NOOP", "LEFT")), "two": make_spec(("NOOP", "UP", "LEFT"))}
    levels = [1, 0, 1, 1, 0]

    def make_echo(level: int, count: int, offset: int) -> Echo:
        return Echo([*specs.values()][level], offset + np.arange(count))

    env = MultiLevelVectorEnv(merge_specs(specs), levels, make_echo)
    step = env.reset()
    np.testing.assert_array_equal(step.extras["level"], levels)
    np.testing.assert_array_equal(step.observation[:, 0], [2, 0, 3, 4, 1])  # each environment once, in its place
    for _ in range(7):
        action = np.array([2, 1, 1, 0, 0])  # UP, LEFT, LEFT, NOOP, NOOP
        step = env.step(action)
        np.testing.assert_array_equal(step.observation[:, 1], [1, 1, 2, 0, 0])
        np.testing.assert_array_equal(step.last_action, np.where(step.is_first, 0, action))


def test_several_levels_in_one_environment_equal_each_level_alone() -> None:
    config = Config.from_flags(level_name=THREE)
    together = make_for_levels(config.environment, env_spec(config.environment), [0, 1, 2], 5)
    alone = [make_env(name, 1, 5 + i, config.environment) for i, name in enumerate(level_names(THREE))]
    np.testing.assert_array_equal(
        together.reset().observation, np.concatenate([env.reset().observation for env in alone])
    )
    rng = np.random.default_rng(1)
    for _ in range(100):
        level_actions = [rng.integers(env.spec.num_actions, size=1) for env in alone]
        actions = [together.spec.actions_by_level[i][int(action[0])] for i, action in enumerate(level_actions)]
        step = together.step(np.array(actions))
        expected = [env.step(action) for env, action in zip(alone, level_actions, strict=True)]
        np.testing.assert_array_equal(step.observation, np.concatenate([other.observation for other in expected]))
        np.testing.assert_array_equal(step.reward, np.concatenate([other.reward for other in expected]))
    together.close()


@pytest.mark.parametrize(("actors", "num_envs", "levels"), [(2, 32, 57), (3, 4, 3), (4, 2, 8), (1, 3, 2)])
def test_environments_are_spread_evenly_over_all_levels(actors: int, num_envs: int, levels: int) -> None:
    assigned = np.concatenate([env_indices(actor, actors, num_envs) % levels for actor in range(actors)])
    counts = np.bincount(assigned, minlength=levels)
    assert counts.min() >= 1
    assert counts.max() - counts.min() <= 1


def resolved(**flags: Any) -> Config:
    """The configuration of a run with these flags."""
    config = Config.from_flags(**flags)
    return resolve(config, env_spec(config.environment), cores=2)


def test_an_actor_has_enough_environments_for_all_levels_unless_set() -> None:
    spec = EnvSpec(ArraySpec((84, 84, 1), "uint8"), 18, 4, actions_by_level=((0,),) * 57)
    for num_actors, flag, expected in ((1, 0, 57), (2, 0, 32), (1, 8, 8)):
        config = Config.from_flags(level_name="atari57", num_actors=num_actors, envs_per_actor=flag)
        assert resolve(config, spec, cores=2).actor.envs_per_actor == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"level_name": THREE, "reward_clipping": "abs_one,none"},
            "--reward_clipping=abs_one,none: has 2 values for 3 levels; allowed: one, or one per level",
        ),
        ({"level_name": "catch", "num_action_repeats": 4}, "--num_action_repeats=4: catch has 1; allowed: 0, 1"),
        (
            {"level_name": "catch", "popart": True, "algorithm": "apex"},
            "--popart: not with --algorithm=apex; allowed: impala",
        ),
    ],
)
def test_flags_that_do_not_fit_the_levels_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        resolved(**flags)
    assert str(caught.value) == message


def test_returns_and_scores_are_reported_for_each_level_and_over_all() -> None:
    reports = Rows()
    metrics = make_metrics(reports, levels=["atari_pong", "atari_breakout"])
    metrics.episodes.add([14.6, -20.7], [4, 4], levels=[0, 0])  # human, random: 50 % on average
    metrics.report(1, 10, lambda: 0)
    assert reports[0]["level_return/atari_pong"] == pytest.approx(-3.05)
    assert reports[0]["level_score/atari_pong"] == pytest.approx(50)
    assert "level_return/atari_breakout" not in reports[0]
    metrics.episodes.add([30.5 + 28.8], [4], levels=[1])  # 200 %
    metrics.report(2, 20, lambda: 0)
    scores = {name.removeprefix("score/"): reports[1][name] for name in reports[1] if name.startswith("score/")}
    assert scores == pytest.approx({"mean": 125, "median": 125, "capped": 75, "levels": 2})
    assert metrics.episodes.mean_return() == pytest.approx(125)
    assert not metrics.episodes.full_window()


def test_levels_without_scores_are_compared_by_the_mean_of_their_means() -> None:
    reports = Rows()
    metrics = make_metrics(reports, levels=["catch", "atari_pong"])
    metrics.episodes.add([1.0, 1.0, 5.0], [4, 4, 4], levels=[0, 0, 1])
    metrics.report(1, 10, lambda: 0)
    assert metrics.episodes.mean_return() == reports[0]["return/mean_of_levels"] == 3.0
    assert "score/mean" not in reports[0]
    assert reports[0]["return/mean"] == pytest.approx(7 / 3)


@pytest.mark.parametrize("algorithm", ["impala", pytest.param("apex", marks=pytest.mark.slow), "r2d2"])
def test_every_algorithm_learns_from_several_levels(tmp_path: Path, algorithm: str) -> None:
    """Two games with 4 and 6 actions, small images."""
    small = ["--level_name=atari_breakout,atari_pong", f"--algorithm={algorithm}", "--width=36", "--height=36",
             "--num_stacked_frames=1", "--agent_name=ShallowConvNetAgent", "--envs_per_actor=2", "--num_actors=1",
             "--batch_size=4", "--unroll_length=10", "--replay_min_fill=200", "--replay_capacity=2000",
             "--sequence_length=20", "--burn_in=5", "--n_step=3", "--total_environment_frames=4000",
             "--reward_clipping=abs_one,none"]  # fmt: skip
    with Process(tmp_path, "train", *small, f"--logdir={tmp_path}/run") as run:
        assert run.wait(200) == 0, run.text()
    assert rows(tmp_path / "run")[-1]["learner_step"] > 0


@pytest.mark.parametrize("level", ["Blackjack-v1", "tests.support.levels:Dark-v0", "tests.support.levels:Buttons-v0"])
def test_vectors_dictionaries_texts_and_tuples_train_without_code(tmp_path: Path, level: str) -> None:
    small = [f"--level_name={level}", "--envs_per_actor=4", "--num_actors=1", "--batch_size=4", "--unroll_length=10"]
    with Process(tmp_path, "train", *small, f"--logdir={tmp_path}/run", "--total_environment_frames=2000") as run:
        assert run.wait(200) == 0, run.text()
    assert rows(tmp_path / "run")[-1]["learner_step"] >= 10
