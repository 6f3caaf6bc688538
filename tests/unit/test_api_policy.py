"""mlma.load_policy: acts as evaluation does, on observations as gymnasium gives them, single or batched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import mlma
from agents import make_agent
from mlma.api.policy import Policy
from mlma.core.config import Config
from mlma.core.types import ArraySpec, EnvSpec
from mlma.envs.raw_level import read_parts
from mlma.envs.registry import env_spec
from mlma.envs.spaces import MAX_WORDS
from mlma.evaluation.evaluation import evaluate, evaluation_seed
from mlma.evaluation.saved_policy import load_saved_policy
from mlma.utils.tf_function import CachedGraph
from tests.support.runs import ROOT
from tests.support.saved_runs import write_run

EPISODES = 3


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network has a state, and reads the last reward and action."""
    folder = tmp_path_factory.mktemp("cartpole")
    return write_run(folder, level_name="CartPole-v1", agent_name="MLPLSTMAgent", test_num_episodes=EPISODES)


@pytest.fixture(scope="module")
def pong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("pong"), level_name="atari_pong", agent_name="ShallowConvNetAgent")


def play(policy: Policy, seed: int) -> list[float]:
    """The returns of one episode of each of three raw environments, stepped as one batch."""
    envs = [gymnasium.make("CartPole-v1") for _ in range(EPISODES)]
    observations = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    rewards, returns, over = np.zeros(EPISODES), np.zeros(EPISODES), np.zeros(EPISODES, bool)
    while not over.all():
        actions = policy(observations, rewards)
        for i in np.flatnonzero(~over):
            observations[i], rewards[i], terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += rewards[i]
            over[i] = terminated or truncated
    return returns.tolist()


@pytest.mark.parametrize("actions", ["sampled", "greedy"])
def test_it_plays_the_episodes_of_an_evaluation(cartpole: Path, actions: Any) -> None:
    saved = load_saved_policy(cartpole, "last", make_agent)
    config = saved.config.replace(test_actions=actions)
    evaluated = sorted(evaluate(config, saved.spec, saved.agent, CachedGraph(saved.agent.act)))
    policy = mlma.load_policy(cartpole, actions=actions, seed=evaluation_seed(config))
    assert play(policy, evaluation_seed(config)) == [episode.episode_return for episode in evaluated]


def test_a_batch_is_several_policies(cartpole: Path) -> None:
    rng = np.random.default_rng(1)
    batch = mlma.load_policy(cartpole, actions="greedy")
    singles = [mlma.load_policy(cartpole, actions="greedy") for _ in range(2)]
    for step in range(6):
        observations, rewards = rng.normal(size=(2, 4)).astype(np.float32), rng.normal(size=2)
        if step == 4:  # an episode of the second one starts
            batch.reset([False, True])
            singles[1].reset()
        actions = batch(observations, rewards)
        each = [policy(*pair) for policy, *pair in zip(singles, observations, rewards, strict=True)]
        logits = [policy.outputs.logits[0] for policy in singles if policy.outputs]
        assert batch.outputs
        np.testing.assert_allclose(batch.outputs.logits, logits, atol=1e-6)
        assert actions.tolist() == [int(action) for action in each]
        assert gymnasium.make("CartPole-v1").action_space.contains(each[0])


def test_a_reset_forgets_the_past(cartpole: Path) -> None:
    policy = mlma.load_policy(cartpole)
    observation, logits = np.ones(4, np.float32), []
    for _ in range(2):
        policy(observation)
        assert policy.outputs
        logits.append(policy.outputs.logits)
        policy(observation, 1.0)
        assert not np.array_equal(policy.outputs.logits, logits[0])
        policy.reset()
    assert np.array_equal(*logits)
    policy(np.ones((5, 4), np.float32))  # another batch size


def test_seeds_choose_the_samples(cartpole: Path) -> None:
    def samples(policy: Policy) -> list[int]:
        return [int(policy(np.zeros(4, np.float32), 0.0)) for _ in range(40)]

    policy = mlma.load_policy(cartpole, seed=3)
    first, second = samples(policy), samples(policy)
    policy.reset(seed=3)
    assert first == samples(policy) and first != second
    assert len(set(first)) == 2


def test_what_it_cannot_act_on_is_one_line(cartpole: Path) -> None:
    policy = mlma.load_policy(cartpole)
    with pytest.raises(ValueError, match=r"shape \(5,\); must be \(4,\), or a batch of them"):
        policy(np.zeros(5))
    policy(np.zeros(4))
    with pytest.raises(ValueError, match=r"MLPLSTMAgent reads the last reward: call policy\(observation, reward\)"):
        policy(np.zeros(4))
    with pytest.raises(ValueError, match="2 observations after 1; call reset"):
        policy(np.zeros((2, 4)), 0.0)
    with pytest.raises(ValueError, match="must be a mask or indices of 1 observations"):
        policy.reset([4])


def test_frames_of_atari_are_stacked_inside(pong: Path) -> None:
    policy = mlma.load_policy(pong / "checkpoints" / "checkpoint-000000007.npz", actions="greedy")
    frames = np.random.default_rng(1).integers(0, 256, (3, 84, 84), np.uint8)
    for frame in frames:
        assert policy(frame) in range(6)
    assert policy.outputs
    logits = policy.outputs.logits
    policy.reset()
    for frame in frames:
        policy(frame[np.newaxis, np.newaxis])  # as ale-py's vector environment gives it
    assert np.array_equal(policy.outputs.logits, logits)
    with pytest.raises(ValueError, match=r"observation is uint8 \(210, 160, 3\); must be uint8 \(84, 84, 1\)"):
        policy(np.zeros((210, 160, 3), np.uint8))
    assert policy.frames == 4000 and policy.action_repeats == 4 and policy.config["agent_name"] == "ShallowConvNetAgent"


def test_dicts_and_texts_of_a_suite_are_read() -> None:
    spec = env_spec(Config.from_flags(level_name="catch").environment)
    instructed = EnvSpec(spec.observation, 3, 1, {"words": ArraySpec((MAX_WORDS,), "int32")})
    one, is_batch = read_parts(instructed, {"observation": np.zeros(50, np.float32), "words": "go left"})
    assert not is_batch and one["words"].shape == (1, 24) and one["words"][0, 1] > 0
    two, is_batch = read_parts(instructed, {"observation": np.zeros((2, 50)), "words": ["go left", "go"]})
    assert is_batch and np.array_equal(two["words"][0], one["words"][0])
    with pytest.raises(ValueError, match="has observation; must have observation, words"):
        read_parts(instructed, np.zeros(50, np.float32))


def test_what_is_no_policy_is_one_line(cartpole: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((cartpole / "config.json").read_text())
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "none", {}, "does not exist; allowed: a logdir"),
        (tmp_path, {}, "there is no checkpoint last in .*; allowed: last, best, or a file"),
        (cartpole, {"checkpoint": "best"}, "there is no checkpoint best"),
        (cartpole / "config.json", {}, "is not a checkpoint; allowed"),
        (cartpole, {"actions": "random"}, "must be sampled or greedy"),
        (cartpole, {"level": "catch"}, "level='catch': must be one of CartPole-v1"),
    ]
    for source, options, line in cases:
        with pytest.raises(ValueError, match=line):
            mlma.load_policy(source, **options)


def test_the_listings_of_the_guide_run(cartpole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs" / "guides" / "python_api.md").read_text()
    listings = [code for code in re.findall(r"```python\n(.*?)```", guide, flags=re.S) if "CartPole" in code]
    assert len(listings) == 2
    (tmp_path / "logdir").mkdir()
    (tmp_path / "logdir" / "CartPole-v1").symlink_to(cartpole)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(listings).replace("range(1000)", "range(40)"), names)
    assert names["observations"].shape == (8, 4) and names["policy"].outputs.action.shape == (8,)
