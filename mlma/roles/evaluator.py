"""The evaluator role (`--mode=test`): runs episodes with a checkpoint, and writes scores and videos."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from mlma.core.config import Config
from mlma.core.types import EnvSpec, MakeAgent
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
from mlma.evaluation.saved_policy import restore_network
from mlma.learning.checkpoint import Checkpoints
from mlma.monitoring.loggers.tensorboard import write_evaluation
from mlma.monitoring.run_log import print_line, setup_logging
from mlma.utils.child_process import available_cores
from mlma.utils.side_task import SideTask
from mlma.utils.tensorflow_setup import set_tensorflow_threads
from mlma.utils.tf_function import CachedGraph


def run(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    """Evaluates. `config` is resolved; `spec` describes its levels."""
    setup_logging(timestamps=False)
    checkpoints = Checkpoints(Path(config.run.logdir) / "checkpoints", config.reports.keep_checkpoints)
    loaded = checkpoints.load(config.run.test_checkpoint)
    path = loaded.path
    cores = available_cores()
    set_tensorflow_threads(cores)
    config = config.replace(env_threads=max(config.environment.env_threads, cores))
    agent = make_agent(config, spec)
    meta = restore_network(agent, spec, loaded, config)
    names = level_names(config.environment.level_name)
    several, count = len(names) > 1, config.run.test_num_episodes
    frames = f"{meta['frames']:,} frames of {config.environment.level_name}"
    print_line(f"{path}: {frames}; {count} episodes{' of each' if several else ''}")
    act = CachedGraph(agent.act)
    episodes: list[Episode] = []
    recordings: list[tuple[str, EpisodeRecording, list[float]]] = []
    for level, name in enumerate(names):
        recording = EpisodeRecording([], [], []) if config.run.record_video else None
        of_level: list[Episode] = []
        for episode in evaluate(config, spec, agent, act, level, recording):
            of_level.append(episode)
            print_line(f"episode {len(of_level)}: return {episode.episode_return:g} in {episode.frames:,} frames")
        summary = summarize(name, [episode.episode_return for episode in of_level])
        print_line(format_summary(summary, name if several else ""))
        if recording:
            returns = [episode.episode_return for episode in sorted(of_level)]
            recordings.append((name, actions_of_level(recording, spec, level), returns))
        episodes += of_level
    record = save_evaluation(Path(config.run.logdir) / "evaluation", config, path, meta["frames"], episodes)
    if score := summarize_levels(config.environment.level_name, episodes).get("score"):
        words = "human-normalised over all levels: mean {mean:.1f} %  median {median:.1f} %  capped {capped:.1f} %"
        print_line(words.format(**score))
    print_line(f"written to {record}")
    videos: list[Path] = []
    for name, recording, returns in recordings:
        from mlma.evaluation.video import render_episodes

        folder = Path(config.run.logdir) / "videos" / record.stem / (name.replace("/", "-") if several else "")
        videos += render_episodes(config.replace(level_name=name), evaluation_seed(config), recording, returns, folder)
    if "tensorboard" in config.reports.writers.split(","):
        best = next((video.with_suffix(".gif") for video in videos if video.stem == "best"), None)
        mean = fmean(episode.episode_return for episode in episodes)
        SideTask("TensorBoard")(write_evaluation, record.parent, meta["frames"], mean, best)
    return 0
