"""Actions with real numbers: spaces and their bounds, records, checks, presets, and what is refused."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from mlma.acting.action_noise import NoiseGenerator
from mlma.core.catalog import networks_for
from mlma.core.config import Config, EnvironmentConfig, parse
from mlma.core.presets.resolve import resolve
from mlma.core.record_checks import check_actions, check_spreads
from mlma.core.record_layout import timestep_spec, trajectory_spec
from mlma.core.refusal import RefusedError
from mlma.core.types import ActionPart, ArraySpec, BoxPart, ChoicePart, EnvSpec
from mlma.envs.action_spaces import make_action_converter
from mlma.envs.registry import env_spec, make_env
from mlma.envs.vector.multi_level import merge_specs
from tests.support.samples import IMAGE, REAL, VECTOR, random_actions

PENDULUM = EnvSpec(
    ArraySpec((3,), "float32"), num_actions=0, action_repeats=1, suite="gymnasium", action_parts=(BoxPart((True,)),)
)
MIXED = spaces.Dict(
    arm=spaces.Box(
        np.array([[-2.0, 0.0], [-1.0, -np.inf]], np.float32), np.array([[2.0, 8.0], [1.0, 3.0]], np.float32)
    ),
    legs=spaces.Tuple((spaces.Discrete(3, start=4), spaces.MultiBinary(2))),
    mode=spaces.MultiDiscrete([2, 3], start=[0, 5]),
    pixels=spaces.Box(0, 255, (2,), np.uint8),
)
MIXED_PARTS: tuple[ActionPart, ...] = (
    BoxPart((True, True, True, False)),
    *(ChoicePart(n) for n in (3, 2, 2, 2, 3)),
    BoxPart((True, True)),
)


def test_bounds_on_both_sides_become_one_and_numbers_beyond_them_are_clipped() -> None:
    box = spaces.Box(np.array([-2.0, 10.0], np.float32), np.array([2.0, 20.0], np.float32))
    converter = make_action_converter(box, "clip")
    assert (converter.count, converter.parts) == (0, (BoxPart((True, True)),))
    for action, expected in [((0, 0), (0, 15)), ((1, -1), (2, 10)), ((0.5, 0.5), (1, 17.5)), ((-9, 4), (-2, 20))]:
        converted = converter.convert(np.array(action, np.float32))
        np.testing.assert_allclose(converted, expected)
        assert converted.dtype == np.float32


def test_tanh_squashes_only_numbers_with_bounds_on_both_sides() -> None:
    inf = np.inf
    box = spaces.Box(np.array([-2.0, 0.0, -inf], np.float32), np.array([2.0, inf, inf], np.float32))
    converter = make_action_converter(box, "tanh")
    assert converter.parts == (BoxPart((True, False, False)),)
    np.testing.assert_allclose(converter.convert([0.5, -3, -7]), [2 * np.tanh(0.5), 0, -7], rtol=1e-6)
    np.testing.assert_allclose(converter.convert([50, 3, 7]), [2, 3, 7])


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_any_vector_becomes_an_action_of_the_space(bounds: str) -> None:
    converter = make_action_converter(MIXED, bounds)
    assert converter.parts == MIXED_PARTS
    rng, spec = np.random.default_rng(0), REAL._replace(action_parts=MIXED_PARTS)
    for action in 4 * random_actions(rng, spec, 200):
        action[4:9] /= 4  # the choices
        assert MIXED.contains(converter.convert(action)), action


def test_each_element_of_a_mixed_action_has_its_place() -> None:
    action = make_action_converter(MIXED, "clip").convert(
        np.array([0.5, 0.5, -1, -4, 2, 1, 0, 1, 2, -1, 0.21], np.float32)
    )
    np.testing.assert_allclose(action["arm"], [[1, 6], [-1, -4]])
    assert action["legs"][0] == 6
    assert action["legs"][1].tolist() == [1, 0]
    assert action["mode"].tolist() == [1, 7]
    assert action["pixels"].tolist() == [0, 154]


def test_bounds_that_are_huge_count_as_none() -> None:
    box = spaces.Box(-3e38, 3e38, (1,), np.float32)
    converter = make_action_converter(box, "tanh")
    assert converter.parts == (BoxPart((False,)),)
    assert converter.convert(np.array([7.0])) == 7


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Tuple((spaces.Box(0, 1, (1,)), spaces.Text(4))), "has actions of Text.*; supported are Box, Discrete"),
        (spaces.Box(0, 1, (2000,)), "has actions of 2,000 numbers; 1 to 1,024 are supported"),
        (spaces.Box(0, 1, (0,)), "has actions of 0 numbers"),
    ],
)
def test_other_spaces_are_refused_in_one_line(space: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_action_converter(space, "clip")


def test_records_hold_the_action_before_the_bounds_and_all_parameters() -> None:
    assert timestep_spec(REAL, 4).last_action == ((4, 3), "float32")
    acted = trajectory_spec(REAL, None, unroll_length=5).act_outputs
    assert (acted.action, acted.logits) == (((6, 3), "float32"), ((6, 7), "float32"))
    acted = trajectory_spec(VECTOR, None, unroll_length=5).act_outputs
    assert (acted.action, acted.logits) == (((6,), "int32"), ((6, 3), "float32"))


def test_noise_has_a_number_for_each_element_and_is_as_ever_without_real_numbers() -> None:
    assert NoiseGenerator(3, np.zeros(4), REAL).draw().uniform.shape == (4, 3)
    expected = np.random.default_rng(3).random(4, np.float32)
    np.testing.assert_array_equal(NoiseGenerator(3, np.zeros(4), VECTOR).draw().uniform, expected)
    np.testing.assert_array_equal(NoiseGenerator(3, np.zeros(4)).draw().uniform, expected)


@pytest.mark.parametrize("env_processes", [0, 2])
def test_the_environment_receives_clipped_actions_and_the_record_keeps_them_unclipped(env_processes: int) -> None:
    env = make_env("Pendulum-v1", 3, 7, EnvironmentConfig(env_processes=env_processes))
    assert env.spec == PENDULUM._replace(suite="")
    env.reset()
    actions = np.array([[0.25], [5.0], [-5.0]], np.float32)
    step = env.step(actions)
    np.testing.assert_array_equal(step.last_action, actions)
    env.close()
    for i, torque in enumerate((0.5, 2.0, -2.0)):
        reference = gymnasium.make("Pendulum-v1")
        reference.reset(seed=7 + i)
        observation, reward, *_ = reference.step(np.array([torque], np.float32))
        np.testing.assert_allclose(step.observation[i], observation, rtol=1e-6)
        assert step.reward[i] == pytest.approx(reward, rel=1e-6)


def test_the_last_action_of_a_new_episode_is_zero_and_a_sticky_action_repeats_all_numbers() -> None:
    env = make_env("Pendulum-v1", 200, 7, EnvironmentConfig(sticky_actions=0.25))
    assert not env.reset().last_action.any()
    env.step(np.full((200, 1), -1.0))
    env.step(np.full((200, 1), -1.0))
    after = env.step(np.full((200, 1), 1.0))
    assert (after.last_action == 1).all(), "the selected action"
    reference = make_env("Pendulum-v1", 200, 7, EnvironmentConfig())
    reference.reset()
    for torque in (-1.0, -1.0, 1.0):
        step = reference.step(np.full((200, 1), torque))
    differs = np.abs(after.observation[:, 2] - step.observation[:, 2]) > 1e-4  # the angular velocity
    assert 0.3 < differs.mean() < 0.55, "a quarter now, and a quarter of the others in the first step"


def test_numbers_that_no_policy_has_are_refused() -> None:
    rng = np.random.default_rng(2)
    good = random_actions(rng, REAL, 5, 2)
    check_actions("action", good, REAL)
    for element, value in ((0, np.nan), (2, 1e9), (1, 3.0), (1, -1.0), (1, 0.5)):
        bad = good.copy()
        bad[3, 1, element] = value
        with pytest.raises(RefusedError):
            check_actions("action", bad, REAL)
    outputs = np.clip(rng.normal(size=(5, 2, 7)), -2, 2).astype(np.float32)
    check_spreads(outputs, REAL)
    outputs[2, 0, 4] = -40.0  # a logit may be anything
    check_spreads(outputs, REAL)
    for element in (1, 6):
        bad = outputs.copy()
        bad[2, 0, element] = -40.0
        with pytest.raises(RefusedError, match="log_spread"):
            check_spreads(bad, REAL)


def resolved(*words: str, spec: EnvSpec = PENDULUM) -> Config:
    return resolve(parse(["--level_name=Pendulum-v1", *words]), spec, cores=2)


def test_real_actions_have_a_preset_of_their_own() -> None:
    learner = resolved().learner
    assert (learner.reward_clipping, learner.entropy_cost) == ("none", 0.0)
    assert (learner.normalize_observations, learner.normalize_returns) == ("on", "on")
    lander = resolved("--level_name=LunarLanderContinuous-v3")
    assert (lander.learner.discounting, lander.learner.vtrace_lambda) == (0.999, 0.98)
    assert (lander.learner.policy_clip, lander.optimizer.learning_rate) == (0.2, 0.001)
    cheetah = resolved("--level_name=HalfCheetah-v5").learner
    assert (cheetah.discounting, cheetah.vtrace_lambda, cheetah.initial_spread) == (0.98, 0.92, 0.14)
    walker = resolved("--level_name=BipedalWalker-v3")
    assert (walker.learner.discounting, walker.run.total_environment_frames) == (0.999, 5e6)
    off = resolved("--normalize_observations=off", "--normalize_returns=off").learner
    assert (off.normalize_observations, off.normalize_returns) == ("off", "off")
    image = resolved("--level_name=Car", spec=IMAGE._replace(num_actions=0, action_parts=PENDULUM.action_parts))
    assert image.run.agent_name in networks_for("image")
    assert (image.learner.reward_clipping, image.learner.normalize_observations) == ("none", "off")


def test_levels_with_listed_actions_have_nothing_normalised() -> None:
    learner = resolve(parse(["--level_name=catch"]), env_spec(EnvironmentConfig(level_name="catch")), 2).learner
    assert (learner.normalize_observations, learner.normalize_returns) == ("off", "off")
    assert resolved("--popart", spec=VECTOR).learner.normalize_returns == "on"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--algorithm=apex"], "--algorithm=apex: Pendulum-v1 has actions of real numbers; allowed: impala"),
        (["--algorithm=r2d2"], "--algorithm=r2d2: Pendulum-v1 has actions of real numbers; allowed: impala"),
        (["--popart", "--normalize_returns=off"], "--normalize_returns=off: not with --popart; allowed: auto, on"),
    ],
)
def test_what_does_not_go_together_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        resolved(*words)
    assert str(caught.value) == message


def test_normalisation_is_refused_for_algorithms_that_ignore_it() -> None:
    with pytest.raises(ValueError, match=r"^--normalize_observations=on: not with --algorithm=apex; allowed: impala$"):
        resolved("--algorithm=apex", "--normalize_observations=on", spec=VECTOR)


def test_several_levels_with_real_actions_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^--level_name: Pendulum-v1 has actions of real numbers: allowed as the only"
    ):
        merge_specs({"catch": VECTOR, "Pendulum-v1": PENDULUM})
