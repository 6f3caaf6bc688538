"""The flags of a run and its processes: run, actors, distribution, reports.

Each flag is a field with name, type, default, bounds and help text; those of learning are in
mlma/core/config/learning_sections.py, those of levels in mlma/core/config/environment_section.py.

A value of 0, -1 or "auto" that stands for a preset is replaced in mlma/core/presets/resolve.py. Not here: parsing
(mlma/core/config/flags.py), the whole configuration (mlma/core/config/config.py).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from mlma.core.catalog import ALGORITHMS, NETWORKS
from mlma.core.config.flags import HELP, option
from mlma.core.config.limits import (
    A_WEEK,
    A_YEAR,
    MAX_ACTORS,
    MAX_ARGUMENT_CHARACTERS,
    MAX_ENVS_PER_ACTOR,
    MAX_FRAMES,
    MAX_LEARNERS,
    MAX_THREADS,
)
from mlma.core.presets.papers import FAST, PAPER_PRESETS


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Run."""

    logdir: str = option(
        "auto",
        "folder of the run, for configuration, checkpoints and metrics; if it holds a run, that run is resumed; auto "
        "is logdir/LEVEL",
    )
    mode: Literal["train", "test"] = option(
        "train", "train, or test: evaluate a checkpoint of logdir; test_num_episodes is the number of episodes"
    )
    algorithm: str = option(
        "impala", "the learning algorithm; module:NAME or ./file.py:NAME for your own", choices=ALGORITHMS, or_own=True
    )
    preset: str = option(
        FAST,
        "settings for all flags that are not given; fast is tuned for a few cores and depends on algorithm and level;"
        " the other presets are fixed settings, most of them a paper's, and include the algorithm; help prints all "
        "presets side by side",
        choices=(FAST, *PAPER_PRESETS, HELP),
    )
    agent_name: str = option(
        "auto",
        "the network; auto takes the preset's network; module:NAME or ./file.py:NAME for your own",
        choices=("auto", *NETWORKS),
        or_own=True,
    )
    total_environment_frames: float = option(
        0.0,
        "frames to train for, summed over all learners; these are frames of the emulator, so an agent step counts as "
        "num_action_repeats frames; 0 takes the preset's value",
        minimum=0,
        maximum=MAX_FRAMES,
    )
    seed: int = option(1, "seed of the initial weights and of the environments", minimum=0, maximum=2**31 - 1)
    deterministic: bool = option(
        False,
        "make runs repeatable: actors and learners take turns, and random numbers depend only on the seed and the "
        "actor, so the same flags give the same numbers in logdir/curve.csv; slower; only for algorithms without a "
        "replay; one actor unless num_actors is given",
    )
    job_name: Literal["learner", "actor"] = option("learner", "role of this process if task is 0 or more")
    task: int = option(
        -1,
        "number of this learner or actor, counted from 0; -1 is local training, in which a learner starts its own "
        "actors",
        minimum=-1,
        maximum=MAX_ACTORS - 1,
    )
    test_num_episodes: int = option(10, "episodes to run in test mode, on each level", minimum=1, maximum=100_000)
    test_actions: Literal["sampled", "greedy"] = option(
        "sampled", "actions in test mode: sampled from the policy as in training, or greedy"
    )
    test_epsilon: float = option(0.001, "epsilon in test mode, for algorithms with Q-values", minimum=0, maximum=1)
    test_checkpoint: str = option("last", "checkpoint to evaluate in test mode: last, best, or a file")
    record_video: bool = option(
        False,
        "in test mode, record the best, the median and the worst episode; videos are MP4 and GIF files in "
        "logdir/videos",
    )


@dataclasses.dataclass(frozen=True)
class ActorConfig:
    """Actors."""

    num_actors: int = option(
        0,
        "actors per learner; 0 is one per core in local training, and otherwise one for each entry of actor_hosts",
        minimum=0,
        maximum=MAX_ACTORS,
    )
    envs_per_actor: int = option(
        0,
        "environments per actor, stepped together with one inference call; 0 takes the preset's value",
        minimum=0,
        maximum=MAX_ENVS_PER_ACTOR,
    )
    acting_precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto",
        "number format in which actors, and a learner that acts for them, compute convolutions and dense layers for "
        "images: see precision",
    )
    actor_threads: int = option(1, "TensorFlow threads of one actor", minimum=1, maximum=MAX_THREADS)
    exploration_base: float = option(
        0.4,
        "epsilon of the environment that explores most; environment i of N has epsilon exploration_base^(1 + "
        "exploration_exponent * i / (N - 1)); apex and r2d2",
        minimum=0,
        maximum=1,
    )
    exploration_exponent: float = option(
        7.0,
        "how much smaller the epsilon of later environments is: see exploration_base; apex and r2d2",
        minimum=0,
        maximum=1000,
    )
    inference: Literal["actor", "learner"] = option(
        "actor",
        "where actions are computed: in each actor, with weights that it fetches; or in the learner, in batches for "
        "all of its actors, which suits learners with a GPU and networks too deep for the actors' cores",
    )
    inference_batch: int = option(
        0,
        "largest number of environments in one inference batch of the learner; 0 is all environments of its actors, "
        "up to 512",
        minimum=0,
        maximum=65_536,
    )
    inference_wait_ms: float = option(
        1.0,
        "milliseconds that the learner waits for more environments if an inference batch is not full",
        minimum=0,
        maximum=60_000,
    )
    inference_sizes: str = option(
        "",
        "sizes to which inference batches are padded: ascending numbers separated by commas, the last one equal to "
        "inference_batch; empty means no padding",
    )


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """Several processes and hosts."""

    learner_host: str = option(
        "auto",
        "address of the learner: host:port, unix:/path, or auto, which is a private socket in local training and "
        "localhost:8001 otherwise; connections to host:port are encrypted and need the token, but localhost:port "
        "without a token is a Unix socket that only this user can open",
    )
    insecure_plaintext: bool = option(
        False,
        "use TCP without encryption at learner_host; set it on the learner and on its actors; whoever can reach the "
        "port can read the traffic, crash the learner and fill its memory, with or without the token; only for "
        "isolated networks and measurements",
    )
    actor_hosts: str = option(
        "localhost:9001,localhost:9002",
        "one host:port per actor, separated by commas; only the number of entries matters, since actors open no port",
        longest=MAX_ARGUMENT_CHARACTERS,
    )
    token_file: str = option(
        "",
        "file with the secret that learner and actors share (mode 0600); the run's certificate, with which they "
        "authenticate and encrypt, is derived from it; the environment variable MLMA_TOKEN takes precedence",
    )
    num_learners: int = option(
        0,
        "number of learners; with task=-1, mpirun starts them on this machine, each with num_actors actors of its "
        "own; 0 is the number that mpirun has started, or one",
        minimum=0,
        maximum=MAX_LEARNERS,
    )
    max_restarts: int = option(
        0,
        "how often learners that crash or hang are restarted from the last checkpoint; only with task=-1 and "
        "num_learners",
        minimum=0,
        maximum=1_000_000,
    )
    sample_timeout_seconds: float = option(
        10.0,
        "with several learners: seconds without a sample after which a learner joins the allreduce with weight zero, "
        "so that the others do not wait for it",
        minimum=0.1,
        former_names=("idle_seconds",),
        maximum=A_WEEK,
    )
    hang_timeout_seconds: float = option(
        60.0,
        "with several learners: seconds that learners wait for one that hangs, before they name it and the run ends",
        minimum=1,
        former_names=("hang_seconds",),
        maximum=A_WEEK,
    )
    compression: Literal["none", "fp16"] = option("none", "compression of gradients for the allreduce")
    reconnect_seconds: float = option(
        3600.0, "seconds for which an actor tries to reach its learner before it gives up", minimum=0, maximum=A_YEAR
    )
    heartbeat_folder: str = option(
        "",
        "folder on this host in which this worker keeps its heartbeat, for `python -m mlma.monitoring.health_check`; "
        "empty disables it",
        former_names=("health_folder",),
    )


@dataclasses.dataclass(frozen=True)
class ReportsConfig:
    """Reports and checkpoints."""

    report_every_seconds: float = option(
        5.0, "seconds between reports on the console, to TensorBoard and to metrics.csv", minimum=0.1, maximum=A_YEAR
    )
    report_every_steps: int = option(
        0,
        "learner steps between reports; 0 uses report_every_seconds, or 100 steps with deterministic",
        minimum=0,
        maximum=1_000_000_000,
    )
    checkpoint_every_seconds: float = option(300.0, "seconds between checkpoints", minimum=0, maximum=A_YEAR)
    keep_checkpoints: int = option(
        3, "number of checkpoints to keep, in addition to the best", minimum=1, maximum=100_000
    )
    evaluate_every: float = option(
        0.0,
        "frames between evaluations during training; each runs in a process of its own with the flags of test mode; 0"
        " disables them",
        minimum=0,
        maximum=MAX_FRAMES,
    )
    video_every_episodes: int = option(
        0,
        "record one in this many episodes of the first environment of actor 0, in logdir/videos/training on its host;"
        " 0 disables it",
        minimum=0,
        maximum=1_000_000_000,
    )
    writers: str = option(
        "tensorboard",
        "loggers besides console and CSV: tensorboard, wandb, mlflow, trackio; separated by commas; the last three "
        "need a package of their own",
        may_be_empty=True,
    )
    metrics_port: int = option(
        0,
        "port on 127.0.0.1 at which a worker serves /metrics for Prometheus: a learner takes this port plus its "
        "number among the learners of its host, actor N takes this port + 100 + N; 0 disables it",
        minimum=0,
        maximum=65_535,
    )
    profile: float = option(
        0.0,
        "seconds to profile, early in the run: a TensorFlow profile of the learner and a trace of the learner and "
        "actor 0, in logdir/profile; 0 disables it",
        minimum=0,
        maximum=3600,
    )
