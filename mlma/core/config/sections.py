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
        "folder of the run: configuration, checkpoints, metrics; a run found there is resumed; auto is logdir/LEVEL",
    )
    mode: Literal["train", "test"] = option(
        "train", "train, or test: evaluate a checkpoint of logdir for test_num_episodes episodes"
    )
    algorithm: str = option(
        "impala", "the algorithm; module:NAME or ./file.py:NAME for your own", choices=ALGORITHMS, or_own=True
    )
    preset: str = option(
        FAST,
        "values of all flags that are not given: fast, tuned for a few cores, by algorithm and level; or a paper's "
        "settings, with its algorithm; help prints them side by side",
        choices=(FAST, *PAPER_PRESETS, HELP),
    )
    agent_name: str = option(
        "auto",
        "the network; auto is the preset of the level; module:NAME or ./file.py:NAME for your own",
        choices=("auto", *NETWORKS),
        or_own=True,
    )
    total_environment_frames: float = option(
        0.0,
        "frames to train for, summed over all learners; a frame is an emulator frame, so a step is num_action_repeats"
        " frames; 0 is the preset of the level",
        minimum=0,
        maximum=MAX_FRAMES,
    )
    seed: int = option(1, "seed of the initial weights and of the environments", minimum=0, maximum=2**31 - 1)
    deterministic: bool = option(
        False,
        "actors and learners take turns, and all random numbers follow from the seed and the actor, so the same flags"
        " give the same numbers in logdir/curve.csv; slower; only algorithms without a replay; one actor unless "
        "num_actors is given",
    )
    job_name: Literal["learner", "actor"] = option("learner", "role of this process if task is 0 or more")
    task: int = option(
        -1,
        "index of this learner or actor; -1 is local training: a learner that starts its own actors",
        minimum=-1,
        maximum=MAX_ACTORS - 1,
    )
    test_num_episodes: int = option(10, "episodes to evaluate in test mode, for each level", minimum=1, maximum=100_000)
    test_actions: Literal["sampled", "greedy"] = option(
        "sampled", "actions in test mode: sampled from the policy as in training, or greedy"
    )
    test_epsilon: float = option(0.001, "epsilon in test mode, for algorithms with q-values", minimum=0, maximum=1)
    test_checkpoint: str = option("last", "checkpoint to evaluate in test mode: last, best, or a file")
    record_video: bool = option(
        False, "test mode: write the best, the median and the worst episode to logdir/videos as MP4 and GIF"
    )


@dataclasses.dataclass(frozen=True)
class ActorConfig:
    """Actors."""

    num_actors: int = option(
        0,
        "actors per learner; 0 is one per core in local training, else one for each of actor_hosts",
        minimum=0,
        maximum=MAX_ACTORS,
    )
    envs_per_actor: int = option(
        0,
        "environments that one actor steps together, with one inference call for all; 0 is the preset of the level",
        minimum=0,
        maximum=MAX_ENVS_PER_ACTOR,
    )
    acting_precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "type in which actors, and a learner that acts for them, compute convolutions: see precision"
    )
    actor_threads: int = option(1, "TensorFlow threads of one actor", minimum=1, maximum=MAX_THREADS)
    exploration_base: float = option(
        0.4,
        "epsilon of the environment that explores most; environment i of N has "
        "exploration_base^(1 + exploration_exponent i/(N-1)); apex and r2d2",
        minimum=0,
        maximum=1,
    )
    exploration_exponent: float = option(7.0, "see exploration_base", minimum=0, maximum=1000)
    inference: Literal["actor", "learner"] = option(
        "actor",
        "where actions are computed: by each actor, with weights that it fetches; or by the learner for all of its "
        "actors in batches, for learners with a GPU or networks too deep for the actors' cores",
    )
    inference_batch: int = option(
        0,
        "maximum number of environments in an inference batch of the learner; 0 is all of its actors' but at most 512",
        minimum=0,
        maximum=65_536,
    )
    inference_wait_ms: float = option(
        1.0,
        "milliseconds that an inference batch waits for more environments when it is not full",
        minimum=0,
        maximum=60_000,
    )
    inference_sizes: str = option(
        "",
        "sizes that inference batches are padded to: ascending numbers separated by commas, the last one "
        "inference_batch; empty is no padding",
    )


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """Several processes and hosts."""

    learner_host: str = option(
        "auto",
        "address of the learner: host:port, unix:/path, or auto: a private socket in local training, else "
        "localhost:8001; host:port is encrypted and open only to holders of the token; localhost without a token is a "
        "socket that only this user can open",
    )
    insecure_plaintext: bool = option(
        False,
        "TCP without encryption at learner_host, on learner and actors: whoever reaches the port can read the traffic, "
        "crash the learner and fill its memory, token or not; for isolated networks and measurements",
    )
    actor_hosts: str = option(
        "localhost:9001,localhost:9002",
        "one host:port per actor; only their number matters, since actors open no port",
        longest=MAX_ARGUMENT_CHARACTERS,
    )
    token_file: str = option(
        "",
        "file with the secret shared by learner and actors (mode 0600), from which the run's certificate follows; "
        "the environment variable MLMA_TOKEN takes precedence",
    )
    num_learners: int = option(
        0,
        "learners of the run: with task -1 mpirun starts them here, each with num_actors actors of its own; 0 is as "
        "many as mpirun has started, or one",
        minimum=0,
        maximum=MAX_LEARNERS,
    )
    max_restarts: int = option(
        0,
        "restarts of learners that crashed or hung, from their last checkpoint (with task -1 and num_learners)",
        minimum=0,
        maximum=1_000_000,
    )
    sample_timeout_seconds: float = option(
        10.0,
        "seconds without a sample after which a learner takes part with weight zero instead of delaying the others",
        minimum=0.1,
        former_names=("idle_seconds",),
        maximum=A_WEEK,
    )
    hang_timeout_seconds: float = option(
        60.0,
        "seconds after which a learner that delays the others is named and the run ends",
        minimum=1,
        former_names=("hang_seconds",),
        maximum=A_WEEK,
    )
    compression: Literal["none", "fp16"] = option("none", "gradient compression for the allreduce")
    reconnect_seconds: float = option(
        3600.0, "seconds for which an actor tries to reach its learner before it gives up", minimum=0, maximum=A_YEAR
    )
    heartbeat_folder: str = option(
        "",
        "folder on this host for the heartbeat of this worker, read by `python -m mlma.monitoring.health_check`; "
        "empty is none",
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
        "learner steps between reports, instead of seconds; 0 uses seconds, or 100 steps with deterministic",
        minimum=0,
        maximum=1_000_000_000,
    )
    checkpoint_every_seconds: float = option(300.0, "seconds between checkpoints", minimum=0, maximum=A_YEAR)
    keep_checkpoints: int = option(
        3, "number of checkpoints to keep, in addition to the best", minimum=1, maximum=100_000
    )
    evaluate_every: float = option(
        0.0,
        "frames between evaluations during training, each in a process of its own, with the flags of test mode; 0 is "
        "never",
        minimum=0,
        maximum=MAX_FRAMES,
    )
    video_every_episodes: int = option(
        0,
        "episodes between videos of the first environment of actor 0, in logdir/videos/training on its host; 0 is "
        "never",
        minimum=0,
        maximum=1_000_000_000,
    )
    writers: str = option(
        "tensorboard",
        "loggers in addition to console and CSV: tensorboard, wandb, mlflow, trackio, separated by commas; the last "
        "three need their package",
        may_be_empty=True,
    )
    metrics_port: int = option(
        0,
        "port of loopback at which a worker serves /metrics to Prometheus: a learner takes this port plus its number "
        "among the learners of its host, actor N takes this port + 100 + N; 0 is none",
        minimum=0,
        maximum=65_535,
    )
    profile: float = option(
        0.0,
        "seconds of a TensorFlow profile of the learner and a trace of the learner and actor 0, taken early in the "
        "run, in logdir/profile; 0 is none",
        minimum=0,
        maximum=3600,
    )
