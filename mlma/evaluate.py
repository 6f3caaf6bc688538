"""Plays whole games under evaluation settings: no return ends at a life loss, up to 30 no-ops, rewards as they are.

What came out goes to a JSON file with everything that is needed to do it again, and to a CSV with a line for each episode.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import operator
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlma import envs, provenance, scores
from mlma.chances import Chances
from mlma.config import Config
from mlma.types import Agent, EnvSpec

SEED_OFFSET = 1_000_003  # other games than those of training


class Tape(NamedTuple):
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
    config: Config, spec: EnvSpec, agent: Agent, act: Any, level: int = 0, tape: Tape | None = None
) -> Iterator[Episode]:
    """`test_num_episodes` episodes of one level of the run as they end: the first of each environment, so that short ones are
    not favoured. `act` is the agent's, as a graph."""
    name = envs.levels(config.level_name)[level]
    env = envs.deal(config, spec, [level] * config.test_num_episodes, seed_of(config), evaluation=True)
    timestep, state = env.reset(), agent.initial_state(env.num_envs)
    chances = Chances(seed_of(config), np.full(env.num_envs, config.test_epsilon))
    done = np.zeros(env.num_envs, bool)
    while not done.all():
        output, state = act(timestep, state, chances.draw())
        logits, action = output.logits.numpy(), output.action.numpy()
        if config.test_actions == "greedy":
            action = logits.argmax(axis=-1).astype(np.int32)
        if tape is not None:
            for track, values in zip(tape, (action, logits, output.value.numpy()), strict=True):
                track.append(values)
        timestep = env.step(action)
        for i in np.flatnonzero(~np.isnan(timestep.episode_return) & ~done):
            yield Episode(int(i), float(timestep.episode_return[i]), int(timestep.episode_frames[i]), name)
        done |= ~np.isnan(timestep.episode_return)
    env.close()


def seed_of(config: Config) -> int:
    return config.seed + SEED_OFFSET


def summary(level_name: str, returns: list[float]) -> dict[str, float]:
    """The figures that papers report; the human-normalised score where a human's is published."""
    found = {
        "episodes": len(returns),
        "mean": statistics.mean(returns),
        "median": statistics.median(returns),
        "standard_error": statistics.stdev(returns) / len(returns) ** 0.5 if len(returns) > 1 else float("nan"),
        "min": min(returns),
        "max": max(returns),
    }
    if known := scores.of_level(level_name):
        found["human_normalised"] = known.normalised(found["mean"])
        found["human_normalised_capped"] = min(scores.CAP, found["human_normalised"])
    return found


def of_level(tape: Tape, spec: EnvSpec, level: int) -> Tape:
    """The same in the actions that this level of several has."""
    if not spec.actions_of:
        return tape
    own = list(spec.actions_of[level])
    actions = [np.array([own.index(action) for action in step]) for step in tape.actions]
    return Tape(actions, [logits[:, own] for logits in tape.logits], tape.values)


def report(level_name: str, episodes: list[Episode]) -> dict[str, Any]:
    """`summary`, and where there are several levels that of each, and the score over all."""
    found: dict[str, Any] = summary(level_name, [episode.value for episode in episodes])
    names = list(dict.fromkeys(episode.level for episode in episodes))
    if len(names) > 1:
        found["levels"] = {name: summary(name, [e.value for e in episodes if e.level == name]) for name in names}
        score = scores.of_levels({name: each["mean"] for name, each in found["levels"].items()})
        found["score"] = score and {"mean": score.mean, "median": score.median, "capped": score.mean_capped}
    return found


def save(folder: Path, config: Config, checkpoint: Path, frames: int, episodes: list[Episode]) -> Path:
    """Writes evaluation-<learner step>-<time>.json and .csv; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"evaluation-{checkpoint.stem.removeprefix('checkpoint-')}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    record = {
        "level": config.level_name,
        "checkpoint": str(checkpoint),
        "frames": frames,
        "actions": config.test_actions,
        **report(config.level_name, episodes),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "config": dataclasses.asdict(config),
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["episode", "return", "frames", "level"])
        writer.writerows(sorted(episodes, key=operator.attrgetter("number")))
    return path
