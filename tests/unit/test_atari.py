"""Atari: where returns and episodes end, FIRE, sticky actions, seeds and names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlma.core.config import Config, EnvironmentConfig
from mlma.envs.registry import env_spec, make_env, make_for_levels
from mlma.evaluation.evaluation import SEED_OFFSET, evaluation_seed
from tests.support.env_steps import random_actions, run


def test_a_life_loss_ends_the_return_but_not_the_episode() -> None:
    """The reference is evaluation with the same actions, in which no return ends before its episode does."""
    level = "BreakoutNoFrameskip-v4"
    training, evaluation = (make_env(level, 3, 5, EnvironmentConfig(), evaluation=e) for e in (False, True))
    actions = random_actions(training, 500)
    steps, reference = run(training, actions), run(evaluation, actions)
    np.testing.assert_array_equal(steps.observation, reference.observation)
    np.testing.assert_array_equal(steps.is_first, reference.is_first)
    np.testing.assert_array_equal(steps.reward, reference.reward)
    num_episodes = reference.is_first[1:].sum()
    assert num_episodes >= 3
    np.testing.assert_array_equal(reference.discount[:-1] == 0, reference.is_first[1:])  # only at ends of episodes
    assert (steps.discount[:-1][reference.is_first[1:]] == 0).all()  # also in training
    assert (steps.discount[:-1] == 0).sum() >= 5 * num_episodes  # and at each of the five lives
    np.testing.assert_array_equal(np.isfinite(steps.episode_return[:-1]), reference.is_first[1:])


def test_without_the_flag_a_life_loss_ends_nothing() -> None:
    env = make_env("BreakoutNoFrameskip-v4", 2, 5, EnvironmentConfig(life_loss_ends_return=False))
    steps = run(env, random_actions(env, 150))
    np.testing.assert_array_equal(steps.discount[:-1] == 0, steps.is_first[1:])


def test_a_game_that_keeps_its_lives_ends_when_the_emulator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some games report a life for ever, as Adventure does; here Breakout, in which all five are counted otherwise."""
    env = make_env("BreakoutNoFrameskip-v4", 2, 5, EnvironmentConfig())
    emulator: Any = env._env  # type: ignore[attr-defined]
    step = emulator.step

    def with_lives_for_ever(action: Any) -> Any:
        *results, info = step(action)
        return *results, info | {"lives": np.full(2, 5)}

    monkeypatch.setattr(emulator, "step", with_lives_for_ever)
    steps = run(env, random_actions(env, 300))
    assert steps.is_first[1:].sum() >= 2
    np.testing.assert_array_equal(steps.discount[:-1] == 0, steps.is_first[1:])
    np.testing.assert_array_equal(np.isfinite(steps.episode_return[:-1]), steps.is_first[1:])


def test_fire_is_pressed_for_the_agent_only_with_the_flag() -> None:
    """In Breakout the ball appears once FIRE was pressed; without it, nothing moves under no-ops."""

    def still(fire_reset: bool) -> bool:
        env = make_env("BreakoutNoFrameskip-v4", 1, 5, EnvironmentConfig(noop_max=0, fire_reset=fire_reset))
        frames = run(env, np.zeros((40, 1), int)).observation
        return bool((frames == frames[:1]).all())

    assert still(fire_reset=False)
    assert not still(fire_reset=True)


@pytest.mark.parametrize("evaluation", [False, True])
def test_fire_is_pressed_after_each_lost_life_as_if_a_new_episode_began(evaluation: bool) -> None:
    """The reference presses FIRE by itself in the same steps and never touches the flag."""
    level, lives = "BreakoutNoFrameskip-v4", 5
    env = make_env(level, 3, 5, EnvironmentConfig(fire_reset=True), evaluation)
    assert env.spec.action_names
    fire = env.spec.action_names.index("FIRE")
    actions = random_actions(env, 500)
    actions[actions == fire] = 0
    steps = run(env, actions)
    ends = np.isfinite(steps.episode_return)
    assert ends.sum() >= 3
    pressed = steps.last_action[1:] == fire
    assert pressed[0].all()  # after the reset
    assert pressed[1:][ends[:-2]].all()  # and after those that follow
    assert pressed.sum() >= lives * ends.sum()
    np.testing.assert_array_equal(steps.is_first[1:], pressed | ends[:-1])
    return_ends = steps.discount == 0
    if evaluation:
        np.testing.assert_array_equal(return_ends, ends)
    else:
        np.testing.assert_array_equal(pressed[1:], (return_ends & ~ends)[1:-1] | ends[:-2])
    reference = run(make_env(level, 3, 5, EnvironmentConfig(), evaluation), np.where(pressed, fire, actions))
    np.testing.assert_array_equal(steps.observation, reference.observation)
    np.testing.assert_array_equal(steps.reward, reference.reward)
    np.testing.assert_array_equal(steps.episode_return, reference.episode_return)
    np.testing.assert_array_equal(steps.episode_frames, reference.episode_frames)


def test_rewards_are_raw_and_the_episode_return_is_their_sum() -> None:
    env = make_env("SpaceInvadersNoFrameskip-v4", 2, 5, EnvironmentConfig())
    steps = run(env, random_actions(env, 600))
    assert steps.reward.max() >= 5  # an invader gives 5 to 30
    ends = np.argwhere(np.isfinite(steps.episode_return))
    assert len(ends) >= 2
    start = {0: 0, 1: 0}  # environment -> first step of its episode
    for t, e in ends:
        assert steps.episode_return[t, e] == steps.reward[start[e] : t + 1, e].sum()
        assert steps.episode_frames[t, e] == 4 * (t - start[e])
        assert steps.reward[start[e], e] == 0
        assert steps.is_first[start[e], e]
        start[e] = t + 1


def test_atari_seeds_make_episodes_that_can_be_repeated_and_differ() -> None:
    def frames(seed: int) -> Any:
        level = "AssaultNoFrameskip-v4"  # which moves by itself from the start
        return run(make_env(level, 12, seed, EnvironmentConfig()), np.ones((1, 12), int)).observation

    first = frames(5)
    np.testing.assert_array_equal(first, frames(5))
    assert not np.array_equal(first, frames(500))
    assert len({env.tobytes() for env in first.swapaxes(0, 1)}) > 5  # of 30 possible starts: 0 to 29 no-ops


@pytest.mark.parametrize(("level", "repeats"), [("AssaultNoFrameskip-v4", False), ("ALE/Assault-v5", True)])
def test_training_that_cannot_be_repeated_starts_at_random_but_never_alike(level: str, repeats: bool) -> None:
    """Without a seed, sticky actions would be the same in all environments of an actor."""

    def frames() -> Any:
        settings = EnvironmentConfig(level_name=level)
        env = make_for_levels(settings, env_spec(settings), [0] * 12, seed=5, repeatable=False)
        return run(env, random_actions(env, 3)[:, :1].repeat(12, axis=1)).observation

    first = frames()
    assert len({env.tobytes() for env in first.swapaxes(0, 1)}) > 5  # of 30 possible starts: 0 to 29 no-ops
    assert np.array_equal(first, frames()) == repeats


def stay_equal(level: str, config: Config) -> bool:
    """Whether environments with different seeds stay equal under the same actions; only sticky actions prevent it."""
    actions = np.random.default_rng(1).integers(6, size=(120, 1)).repeat(3, axis=1)
    observation = run(make_env(level, 3, 5, config.environment), actions).observation
    return bool((observation == observation[:, :1]).all())


def test_the_largest_seed_can_be_evaluated_with() -> None:
    seed = evaluation_seed(Config.from_flags(seed=2**31 - 1))
    env = make_env("atari_pong", 2, seed, EnvironmentConfig(), evaluation=True)
    assert env.reset().is_first.all()
    env.close()
    assert evaluation_seed(Config.from_flags(seed=7)) == 7 + SEED_OFFSET


def test_only_v5_names_have_sticky_actions_unless_the_flag_is_set() -> None:
    for level in ("PongNoFrameskip-v4", "atari_pong"):
        assert stay_equal(level, Config.from_flags(noop_max=0))
    assert not stay_equal("ALE/Pong-v5", Config.from_flags(noop_max=0))
    assert stay_equal("ALE/Pong-v5", Config.from_flags(noop_max=0, sticky_actions=0.0))
    assert not stay_equal("atari_pong", Config.from_flags(noop_max=0, sticky_actions=0.25))


def test_every_spelling_of_a_name_is_the_same_game() -> None:
    for first, second in (("atari_space_invaders", "SpaceInvadersNoFrameskip-v4"), ("atari_pong", "ALE/Pong-v5")):
        specs = [env_spec(EnvironmentConfig(level_name=name)) for name in (first, second)]
        assert specs[0] == specs[1]
        assert specs[0].observation == ((84, 84, 1), "uint8")
        assert specs[0].num_actions == 6
    full = env_spec(
        EnvironmentConfig(level_name="atari_pong", full_action_space=True, width=60, height=40, num_action_repeats=2)
    )
    assert full[:3] == (((40, 60, 1), "uint8"), 18, 2)
