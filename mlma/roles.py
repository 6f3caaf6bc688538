"""The roles of experiment.py but for the learner (mlma/training.py), wired from their parts: act and test.

Each takes a configuration without anything \"auto\" left in it, and what the level looks like.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import tensorflow as tf

from mlma import actor, checkpoint, envs, presets, resume, transport
from mlma.config import Config
from mlma.evaluate import Episode, Tape, evaluate, of_level, report, save, seed_of, summary
from mlma.graph import Flat
from mlma.health import Pulse
from mlma.players import CALL_SECONDS
from mlma.types import Agent, EnvSpec
from mlma.weights import build, named
from mlma.welcome import hello

MakeAgent = Callable[[Config, EnvSpec], Agent]

# Niceness of an actor on its learner's host. Whoever has work goes first there, and actors take the rest: were they first, they
# would fill the queue and then wait, while a learner step is in one of its parts that only one core can do.
BEHIND = 10


def threads(count: int, parts: int = 1) -> None:
    """So many for what consists of `parts` that can go side by side."""
    tf.config.threading.set_intra_op_parallelism_threads(-(-count // parts))  # within an operation
    tf.config.threading.set_inter_op_parallelism_threads(min(count, max(2, parts)))


# -- actor


def give_way() -> None:
    niceness = os.nice(BEHIND)  # of this thread and of those that it will make; the runtime has some already
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended since
            os.setpriority(os.PRIO_PROCESS, int(thread), niceness)


def act(config: Config, spec: EnvSpec, make_agent: MakeAgent) -> int:
    pulse = Pulse(config.health_folder, f"actor-{config.task}")
    token = transport.read_token(config.token_file)
    address = transport.check_address(config.learner_host, token)
    if transport.is_here(address):
        give_way()
    threads(config.actor_threads)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
        tf.random.set_seed(config.seed)  # of weights that are never used: it will not make any without
    me = {"task": config.task, "host": os.uname().nodename, "envs": config.envs_per_actor}

    def say(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} actor {config.task}: {line}", flush=True)

    recorder = None
    if config.video_every_episodes:
        from mlma import video  # what it imports, other actors do without

        recorder = video.Recorder(config, Path(config.logdir) / "videos" / "training", say)
    outside = actor.Outside(
        make_env=lambda seed, places: envs.deal(config, spec, places % (len(spec.actions_of) or 1), seed),
        connect=lambda: transport.Client(address, token, CALL_SECONDS),
        hello=lambda layout, weights: hello(config, layout, weights) | me,
        say=say,
        pulse=pulse,
        recorder=recorder,
    )
    actor.run(config, spec, make_agent(config, spec), outside)
    pulse.end()
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
    names = envs.levels(config.level_name)
    each = " of each" if len(names) > 1 else ""
    print(f"{path}: {meta['frames']:,} frames of {config.level_name}; {config.test_num_episodes} episodes{each}", flush=True)
    act = Flat(agent.act)
    episodes: list[Episode] = []
    reels: list[tuple[str, Tape, list[float]]] = []
    for number, name in enumerate(names):
        tape = Tape([], [], []) if config.record_video else None
        mine: list[Episode] = []
        for episode in evaluate(config, spec, agent, act, number, tape):
            mine.append(episode)
            print(f"episode {len(mine)}: return {episode.value:g} in {episode.frames:,} frames", flush=True)
        print(line(summary(name, [episode.value for episode in mine]), name if each else ""), flush=True)
        if tape:
            reels.append((name, of_level(tape, spec, number), [episode.value for episode in sorted(mine)]))
        episodes += mine
    record = save(Path(config.logdir) / "evaluation", config, path, meta["frames"], episodes)
    if score := report(config.level_name, episodes).get("score"):
        print(
            "human-normalised over all levels: mean {mean:.1f} %  median {median:.1f} %  capped {capped:.1f} %".format(**score)
        )
    print(f"written to {record}")
    for name, tape, returns in reels:
        from mlma import video

        folder = Path(config.logdir) / "videos" / record.stem / (name.replace("/", "-") if each else "")
        video.film(replace(config, level_name=name), seed_of(config), tape, returns, folder, print)
    return 0


def line(found: dict[str, float], name: str) -> str:
    """A summary on the console."""
    text = f"{name}: " if name else ""
    text += "mean {mean:.2f} +- {standard_error:.2f}  median {median:g}  min {min:g}  max {max:g}".format(**found)
    if "human_normalised" in found:
        text += f"  human-normalised {found['human_normalised']:.1f} % (100 % is a human, 0 % random play)"
    return text
