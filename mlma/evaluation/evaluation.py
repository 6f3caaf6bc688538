"""Runs whole episodes under evaluation settings: no return ends at a life loss, up to 30 no-ops, raw rewards.

Results are written to a JSON file, with everything needed to reproduce them, and to a CSV file with one row per
episode. Not here: the role around it (mlma/roles/evaluator.py), evaluation during training
(mlma/evaluation/background_evaluator.py).
"""

from __future__ import annotations

import csv
import io
import json
import operator
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlma.acting.action_noise import NoiseGenerator
from mlma.core.actions import greedy_actions
from mlma.core.config import Config
from mlma.core.types import Agent, EnvSpec
from mlma.envs.reference_scores import SCORE_CAP, level_range, mean_over_levels
from mlma.envs.registry import level_names, make_for_levels
from mlma.utils.atomic_file import atomic_write
from mlma.utils.failure import running
from mlma.utils.own_files import make_own_folder
from mlma.utils.provenance import git_commit, package_versions

SEED_OFFSET = 1_000_003  # keeps the seeds of evaluation episodes apart from those of training
SEED_LIMIT = 2**31 - 2**20  # simulators take 31 bits, and each of up to 100,000 episodes has a seed of its own


class EpisodeRecording(NamedTuple):
    """Actions and network outputs at each step of E episodes, from which mlma/evaluation/video.py renders videos."""

    actions: list[Any]  # of int32 [E], or float32 [E, N]
    logits: list[Any]  # of float32 [E, A]
    values: list[Any]  # of float32 [E]


class Episode(NamedTuple):
    """The result of one episode."""

    env_index: int  # index of its environment in the evaluation
    episode_return: float
    frames: int
    level: str


def evaluate(
    config: Config, spec: EnvSpec, agent: Agent, act: Any, level: int = 0, recording: EpisodeRecording | None = None
) -> Iterator[Episode]:
    """Yields `test_num_episodes` episodes of one level as they end.

    Only the first episode of each environment counts; otherwise short episodes would be overrepresented. `act` is
    `agent.act` as a graph. `recording` is filled, if given.
    """
    name = level_names(config.environment.level_name)[level]
    env = make_for_levels(
        config.environment, spec, [level] * config.run.test_num_episodes, evaluation_seed(config), evaluation=True
    )
    with running():
        timestep, state = env.reset(), agent.initial_state(env.num_envs)
        noise_generator = NoiseGenerator(evaluation_seed(config), np.full(env.num_envs, config.run.test_epsilon), spec)
        done = np.zeros(env.num_envs, bool)
        while not done.all():
            output, state = act(timestep, state, noise_generator.draw())
            logits, action = output.logits.numpy(), output.action.numpy()
            if config.run.test_actions == "greedy":
                action = greedy_actions(spec, logits)
            if recording is not None:
                for steps, values in zip(recording, (action, logits, output.value.numpy()), strict=True):
                    steps.append(values)
            timestep = env.step(action)
            for i in np.flatnonzero(~np.isnan(timestep.episode_return) & ~done):
                yield Episode(int(i), float(timestep.episode_return[i]), int(timestep.episode_frames[i]), name)
            done |= ~np.isnan(timestep.episode_return)
        env.close()


def evaluation_seed(config: Config) -> int:
    """The seed of evaluation episodes, which a video needs again."""
    return (config.run.seed + SEED_OFFSET) % SEED_LIMIT


def summarize(level_name: str, returns: list[float]) -> dict[str, float]:
    """The statistics that papers report; with human-normalised scores if the level has published ones."""
    summary = {
        "episodes": len(returns),
        "mean": statistics.mean(returns),
        "median": statistics.median(returns),
        "standard_error": statistics.stdev(returns) / len(returns) ** 0.5 if len(returns) > 1 else float("nan"),
        "min": min(returns),
        "max": max(returns),
    }
    if score_range := level_range(level_name):
        summary["human_normalised"] = score_range.normalised(summary["mean"])
        summary["human_normalised_capped"] = min(SCORE_CAP, summary["human_normalised"])
    return summary


def actions_of_level(recording: EpisodeRecording, spec: EnvSpec, level: int) -> EpisodeRecording:
    """Converts actions of a run with several levels to those of one level; unchanged in a run with one."""
    if not spec.actions_by_level:
        return recording
    level_actions = list(spec.actions_by_level[level])
    actions = [np.array([level_actions.index(action) for action in step]) for step in recording.actions]
    return EpisodeRecording(actions, [logits[:, level_actions] for logits in recording.logits], recording.values)


def summarize_levels(level_name: str, episodes: list[Episode]) -> dict[str, Any]:
    """`summarize` over all episodes; with several levels also of each level, and the score over all levels."""
    summary: dict[str, Any] = summarize(level_name, [episode.episode_return for episode in episodes])
    names = list(dict.fromkeys(episode.level for episode in episodes))
    if len(names) > 1:
        summary["levels"] = {
            name: summarize(name, [e.episode_return for e in episodes if e.level == name]) for name in names
        }
        score = mean_over_levels({name: level["mean"] for name, level in summary["levels"].items()})
        summary["score"] = score and {"mean": score.mean, "median": score.median, "capped": score.mean_capped}
    return summary


def save_evaluation(folder: Path, config: Config, checkpoint: Path, frames: int, episodes: list[Episode]) -> Path:
    """Writes evaluation-<learner step>-<time>.json and .csv; returns the path of the JSON file."""
    make_own_folder(folder)
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
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["episode", "return", "frames", "level"])
    writer.writerows(sorted(episodes, key=operator.attrgetter("env_index")))
    for each, text in ((path.with_suffix(".csv"), table.getvalue()), (path, json.dumps(record, indent=1) + "\n")):
        with atomic_write(each) as file:
            file.write(text.encode())
    return path


def format_summary(summary: dict[str, float], name: str) -> str:
    """A summary as one line for the console."""
    text = f"{name}: " if name else ""
    text += "mean {mean:.2f} +- {standard_error:.2f}  median {median:g}  min {min:g}  max {max:g}".format(**summary)
    if "human_normalised" in summary:
        text += f"  human-normalised {summary['human_normalised']:.1f} % (100 % is a human, 0 % a random policy)"
    return text
