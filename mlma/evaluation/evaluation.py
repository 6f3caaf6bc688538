"""Plays whole games under evaluation settings: no return ends at a life loss, up to 30 no-ops, rewards as they are.

What came out goes to a JSON file with everything that is needed to do it again, and to a CSV with a line for each episode.
"""

from __future__ import annotations

import csv
import json
import operator
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlma.acting.action_noise import NoiseGenerator
from mlma.core.config import Config
from mlma.core.types import Agent, EnvSpec
from mlma.envs.reference_scores import SCORE_CAP, level_range, mean_over_levels
from mlma.envs.registry import level_names, make_for_levels
from mlma.utils.provenance import git_commit, package_versions

SEED_OFFSET = 1_000_003  # other games than those of training


class EpisodeRecording(NamedTuple):
    """What was done and thought in each step of an evaluation of E episodes; each entry [E, ...]."""

    actions: list[Any]
    logits: list[Any]
    values: list[Any]


class Episode(NamedTuple):
    number: int  # of its environment
    value: float  # the return
    frames: int
    level: str


def evaluate(
    config: Config, spec: EnvSpec, agent: Agent, act: Any, level: int = 0, tape: EpisodeRecording | None = None
) -> Iterator[Episode]:
    """`test_num_episodes` episodes of one level of the run as they end: the first of each environment, so that short ones are
    not favoured. `act` is the agent's, as a graph."""
    name = level_names(config.environment.level_name)[level]
    env = make_for_levels(
        config.environment, spec, [level] * config.run.test_num_episodes, evaluation_seed(config), evaluation=True
    )
    timestep, state = env.reset(), agent.initial_state(env.num_envs)
    noise_generator = NoiseGenerator(evaluation_seed(config), np.full(env.num_envs, config.run.test_epsilon))
    done = np.zeros(env.num_envs, bool)
    while not done.all():
        output, state = act(timestep, state, noise_generator.draw())
        logits, action = output.logits.numpy(), output.action.numpy()
        if config.run.test_actions == "greedy":
            action = logits.argmax(axis=-1).astype(np.int32)
        if tape is not None:
            for track, values in zip(tape, (action, logits, output.value.numpy()), strict=True):
                track.append(values)
        timestep = env.step(action)
        for i in np.flatnonzero(~np.isnan(timestep.episode_return) & ~done):
            yield Episode(int(i), float(timestep.episode_return[i]), int(timestep.episode_frames[i]), name)
        done |= ~np.isnan(timestep.episode_return)
    env.close()


def evaluation_seed(config: Config) -> int:
    return config.run.seed + SEED_OFFSET


def summarize(level_name: str, returns: list[float]) -> dict[str, float]:
    """The figures that papers report; the human-normalised score where a human's is published."""
    found = {
        "episodes": len(returns),
        "mean": statistics.mean(returns),
        "median": statistics.median(returns),
        "standard_error": statistics.stdev(returns) / len(returns) ** 0.5 if len(returns) > 1 else float("nan"),
        "min": min(returns),
        "max": max(returns),
    }
    if known := level_range(level_name):
        found["human_normalised"] = known.normalised(found["mean"])
        found["human_normalised_capped"] = min(SCORE_CAP, found["human_normalised"])
    return found


def actions_of_level(tape: EpisodeRecording, spec: EnvSpec, level: int) -> EpisodeRecording:
    """The same in the actions that this level of several has."""
    if not spec.actions_by_level:
        return tape
    own = list(spec.actions_by_level[level])
    actions = [np.array([own.index(action) for action in step]) for step in tape.actions]
    return EpisodeRecording(actions, [logits[:, own] for logits in tape.logits], tape.values)


def summarize_levels(level_name: str, episodes: list[Episode]) -> dict[str, Any]:
    """`summary`, and where there are several levels that of each, and the score over all."""
    found: dict[str, Any] = summarize(level_name, [episode.value for episode in episodes])
    names = list(dict.fromkeys(episode.level for episode in episodes))
    if len(names) > 1:
        found["levels"] = {name: summarize(name, [e.value for e in episodes if e.level == name]) for name in names}
        score = mean_over_levels({name: each["mean"] for name, each in found["levels"].items()})
        found["score"] = score and {"mean": score.mean, "median": score.median, "capped": score.mean_capped}
    return found


def save_evaluation(folder: Path, config: Config, checkpoint: Path, frames: int, episodes: list[Episode]) -> Path:
    """Writes evaluation-<learner step>-<time>.json and .csv; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"evaluation-{checkpoint.stem.removeprefix('checkpoint-')}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    record = {
        "level": config.environment.level_name,
        "checkpoint": str(checkpoint),
        "frames": frames,
        "actions": config.run.test_actions,
        **summarize_levels(config.environment.level_name, episodes),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "commit": git_commit(),
        "versions": package_versions(),
        "config": config.flags(),
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["episode", "return", "frames", "level"])
        writer.writerows(sorted(episodes, key=operator.attrgetter("number")))
    return path


def format_summary(found: dict[str, float], name: str) -> str:
    """A summary on the console."""
    text = f"{name}: " if name else ""
    text += "mean {mean:.2f} +- {standard_error:.2f}  median {median:g}  min {min:g}  max {max:g}".format(**found)
    if "human_normalised" in found:
        text += f"  human-normalised {found['human_normalised']:.1f} % (100 % is a human, 0 % random play)"
    return text
