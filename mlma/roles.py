"""The roles of experiment.py but for the learner (mlma/training.py), wired from their parts: act and test.

Each takes a configuration without anything \"auto\" left in it, and what the level looks like.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlma import actor, checkpoint, envs, presets, resume, transport, wire
from mlma.config import Config
from mlma.evaluate import Episode, Tape, evaluate, save, seed_of, summary
from mlma.types import Agent, EnvSpec
from mlma.weights import FlatWeights, build, named

MakeAgent = Callable[[Config, EnvSpec], Agent]
MUST_MATCH = (
    "level_name", "algorithm", "agent_name", "unroll_length", "num_action_repeats", "width", "height", "num_stacked_frames",
    "sticky_actions", "noop_max", "life_loss_ends_return", "full_action_space", "n_step",
)  # fmt: skip


def threads(count: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(max(1, min(2, count)))


def hello(config: Config, layout: wire.Layout, weights: FlatWeights) -> dict[str, Any]:
    """What actor and learner must agree on."""
    agreed = {name: getattr(config, name) for name in MUST_MATCH}
    return agreed | {"trajectory": layout.signature, "weights": weights.signature}


# -- actor


def act(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    threads(config.actor_threads)
    token = transport.read_token(config.token_file)
    address = transport.check_address(config.learner_host, token)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(config.seed if config.deterministic else int.from_bytes(os.urandom(7), "little"))

    def say(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} actor {config.task}: {line}", flush=True)

    recorder = None
    if config.video_every_episodes:
        from mlma import video  # what it imports, other actors do without

        recorder = video.Recorder(config, Path(config.logdir) / "videos" / "training", say)
    actor.run(
        config,
        spec,
        make_agent(config, spec),
        make_env=lambda seed: envs.make(config.level_name, config.envs_per_actor, seed, config),
        connect=lambda: transport.Client(address, token, actor.CALL_SECONDS),
        hello=lambda layout, weights: hello(config, layout, weights) | {"task": config.task, "host": os.uname().nodename},
        say=say,
        recorder=recorder,
    )
    return 0


# -- test


def test(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    checkpoints = checkpoint.Checkpoints(Path(config.logdir) / "checkpoints", config.keep_checkpoints)
    path = checkpoints.find(config.test_checkpoint)
    threads(presets.cores())
    config = replace(config, env_threads=max(config.env_threads, presets.cores()))  # games are stepped in parallel
    agent = make_agent(config, spec)
    build(agent, spec)
    variables, meta = checkpoint.load(path)
    wanted = named("network", agent.network.variables)
    network = {name: value for name, value in variables.items() if name.startswith("network/")}
    checkpoint.check(path, network, meta, wanted, resume.identity(config))
    for name, variable in wanted.items():
        variable.assign(network[name])
    tf.random.set_seed(config.seed)
    print(f"{path}: {meta['frames']:,} frames of {config.level_name}; {config.test_num_episodes} episodes", flush=True)
    episodes: list[Episode] = []
    tape = Tape([], [], []) if config.record_video else None
    for episode in evaluate(config, agent, tape):
        episodes.append(episode)
        print(f"episode {len(episodes)}: return {episode.value:g} in {episode.frames:,} frames", flush=True)
    found = summary(config.level_name, [episode.value for episode in episodes])
    line = "mean {mean:.2f} +- {standard_error:.2f}  median {median:g}  min {min:g}  max {max:g}".format(**found)
    if "human_normalised" in found:
        line += f"  human-normalised {found['human_normalised']:.1f} % (100 % is a human, 0 % random play)"
    print(line)
    record = save(Path(config.logdir) / "evaluation", config, path, meta["frames"], episodes)
    print(f"written to {record}")
    if tape:
        from mlma import video

        returns = [episode.value for episode in sorted(episodes)]
        video.film(config, seed_of(config), tape, returns, Path(config.logdir) / "videos" / record.stem, print)
    return 0
