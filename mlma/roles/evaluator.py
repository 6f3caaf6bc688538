"""The roles of experiment.py but for the learner (mlma/roles/training_session.py), wired from their parts: act and test.

Each takes a configuration without anything \"auto\" left in it, and what the level looks like.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlma.core.config.config import Config
from mlma.core.flat_weights import build_variables, named_variables
from mlma.core.types import EnvSpec, MakeAgent
from mlma.distributed.world import available_cores
from mlma.envs.registry import level_names
from mlma.evaluation.evaluation import (
    Episode,
    EpisodeRecording,
    actions_of_level,
    evaluate,
    evaluation_seed,
    format_summary,
    save_evaluation,
    summarize,
    summarize_levels,
)
from mlma.learning.checkpoint import Checkpoints, check_compatible, load_checkpoint
from mlma.learning.run_state import run_identity
from mlma.utils.tensorflow_setup import set_tensorflow_threads
from mlma.utils.tf_function import CachedGraph

# -- test


def run_evaluation(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    checkpoints = Checkpoints(Path(config.logdir) / "checkpoints", config.keep_checkpoints)
    path = checkpoints.find(config.test_checkpoint)
    set_tensorflow_threads(available_cores())
    config = replace(config, env_threads=max(config.env_threads, available_cores()))  # games are stepped in parallel
    agent = make_agent(config, spec)
    build_variables(agent, spec)
    variables, meta = load_checkpoint(path)
    wanted = named_variables("network", agent.network.variables)
    network = {name: value for name, value in variables.items() if name.startswith("network/")}
    check_compatible(path, network, meta, wanted, run_identity(config))
    for name, variable in wanted.items():
        variable.assign(network[name])
    names = level_names(config.level_name)
    each = " of each" if len(names) > 1 else ""
    print(f"{path}: {meta['frames']:,} frames of {config.level_name}; {config.test_num_episodes} episodes{each}", flush=True)
    act = CachedGraph(agent.act)
    episodes: list[Episode] = []
    reels: list[tuple[str, EpisodeRecording, list[float]]] = []
    for number, name in enumerate(names):
        tape = EpisodeRecording([], [], []) if config.record_video else None
        mine: list[Episode] = []
        for episode in evaluate(config, spec, agent, act, number, tape):
            mine.append(episode)
            print(f"episode {len(mine)}: return {episode.value:g} in {episode.frames:,} frames", flush=True)
        print(format_summary(summarize(name, [episode.value for episode in mine]), name if each else ""), flush=True)
        if tape:
            reels.append((name, actions_of_level(tape, spec, number), [episode.value for episode in sorted(mine)]))
        episodes += mine
    record = save_evaluation(Path(config.logdir) / "evaluation", config, path, meta["frames"], episodes)
    if score := summarize_levels(config.level_name, episodes).get("score"):
        print(
            "human-normalised over all levels: mean {mean:.1f} %  median {median:.1f} %  capped {capped:.1f} %".format(**score)
        )
    print(f"written to {record}")
    for name, tape, returns in reels:
        from mlma.evaluation.video import render_episodes

        folder = Path(config.logdir) / "videos" / record.stem / (name.replace("/", "-") if each else "")
        render_episodes(replace(config, level_name=name), evaluation_seed(config), tape, returns, folder, print)
    return 0
