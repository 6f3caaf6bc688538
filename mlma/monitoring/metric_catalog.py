"""What each metric means: the columns of metrics.csv, which are also the tags of TensorBoard.

The reference page docs/reference/metrics.md is generated from here. A column without an entry fails the tests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mlma.core.refusal import REASONS


class MetricGroup(NamedTuple):
    """Metrics with a heading of their own. A name may have one placeholder, such as <level>."""

    title: str
    note: str
    metrics: dict[str, str]  # name -> description


GROUPS = (
    MetricGroup(
        "Progress",
        "Counters are over all learners, and include earlier sessions of a resumed run.",
        {
            "frames": "emulator frames, the x axis of all curves; in TensorBoard it is the step of all tags, "
            "and no tag of its own",
            "learner_step": "updates of the weights",
            "seconds": "seconds of training",
            "core_seconds": "CPU seconds that the learners and the processes that they started (local actors, "
            "evaluations) have used in this session, over all cores; remote actors are not counted",
            "frames_per_second": "frames per second since the last report",
            "learner_steps_per_second": "updates per second since the last report",
            "eta_seconds": "seconds left until `total_environment_frames` at the current speed",
        },
    ),
    MetricGroup(
        "Episodes",
        "Raw returns and lengths of the last 100 episodes of all actors.",
        {
            "episodes": "episodes that ended in this session",
            "return/mean": "mean return",
            "return/median": "median return",
            "return/max": "maximum return",
            "return/greedy": "mean return of the last 100 episodes in the quarter of the environments that explores "
            "least; Ape-X and R2D2",
            "episode_frames": "mean length in frames",
        },
    ),
    MetricGroup(
        "Levels",
        "Only for runs with several levels. Scores are human-normalised: 0 is random play, 100 is a human.",
        {
            "level_return/<level>": "mean return of the last 100 episodes of this level",
            "level_score/<level>": "the same return as a score, for levels with published scores",
            "return/mean_of_levels": "mean of the levels' mean returns",
            "score/mean": "mean score of the levels that have finished an episode so far, if all of these have "
            "published scores",
            "score/median": "median score of these levels",
            "score/capped": "mean score of these levels, each capped at 100: the DMLab-30 score",
            "score/levels": "number of these levels",
        },
    ),
    MetricGroup(
        "Learning",
        "Means over the samples since the last report.",
        {
            "loss/total": "the loss that is minimised, per step for IMPALA and per sample for Ape-X and R2D2",
            "loss/policy": "policy gradient loss per step; IMPALA",
            "loss/value": "value loss per step, before `baseline_cost`; IMPALA",
            "policy/entropy": "entropy of the policy in nats, before `entropy_cost`; IMPALA",
            "policy/clipped": "share of the policy gradient that `policy_clip` removed, in absolute advantages; IMPALA",
            "policy/p_action_1": "mean probability of action 1, for levels with two actions; IMPALA",
            "policy/spread": "mean spread of the policy's Gaussians, in units in which bounds are -1 and 1; IMPALA "
            "with real-valued actions",
            "policy/mean_size": "how far from 0 the means of the policy's Gaussians are, on average, in the same units",
            "value/mean": "mean value estimate; IMPALA",
            "q/mean": "mean Q-value of the actions taken; Ape-X and R2D2",
            "q/max": "maximum Q-value; Ape-X and R2D2",
            "gradient_norm": "global norm of the gradient before clipping",
            "learning_rate": "current learning rate",
        },
    ),
    MetricGroup(
        "Off-policy",
        "How far the policy that produced the data is from the current one.",
        {
            "lag/mean": "age, in learner steps, of the weights that produced the sampled actions: mean",
            "lag/max": "the same: maximum",
            "vtrace/rho_mean": "mean importance ratio, before truncation; IMPALA",
            "vtrace/rho_clipped": "share of importance ratios above `clip_rho_threshold`; IMPALA",
        },
    ),
    MetricGroup(
        "Queue and replay",
        "Where trajectories wait in the learner.",
        {
            "queue/fill": "how full the queue or the replay is, 0 to 1",
            "replay/steps": "steps in the replay",
            "replay/windows": "windows that can be sampled",
            "replay/ratio": "steps trained on per step inserted so far; `replay_ratio` is the target",
            "replay/bytes_per_step": "memory per step",
            "replay/drawn_anew": "samples that were drawn again because part of them was overwritten in the meantime",
            "replay/error": "mean absolute TD error",
            "replay/weight": "mean importance weight of the samples",
            "replay/learned_from": "share of the steps in the sampled sequences that are learned from; R2D2",
        },
    ),
    MetricGroup(
        "Time of the learner",
        "Shares of the time since the last report, 0 to 1; mean over learners.",
        {
            "learner/wait": "waiting for a sample",
            "learner/stack": "assembling a sample from the replay",
            "learner/train": "the whole update: gradient, allreduce and apply",
            "learner/gradient": "computing the gradient",
            "learner/allreduce": "averaging gradients, including the wait for slower learners",
            "learner/apply": "applying the optimizer",
            "learner/publish": "offering weights to actors",
            "learner/report": "reporting",
            "learner/save": "saving checkpoints",
            "slowest/rank": "with several learners, the rank that waits least in the allreduce: the others wait for it",
            "slowest/<phase>": "its share of time in this phase",
            "receiver/wait": "the receiver waits for messages",
            "receiver/full": "the receiver waits for room in the queue or replay",
            "receiver/stack": "the receiver checks and inserts trajectories",
            "host/busy": "how busy the cores are, if learner and actors share one host",
            "inference/batch": "mean number of environments in an inference batch, with `--inference=learner`",
        },
    ),
    MetricGroup(
        "Time of the actors",
        "Shares of the time since the last report, 0 to 1; mean over actors.",
        {
            "actors/simulate": "stepping environments",
            "actors/infer": "computing actions, or waiting for them with `--inference=learner`",
            "actors/send": "filling and packing trajectories",
            "actors/wait": "waiting for the learner to accept the previous message: back-pressure",
            "actors/fetch": "fetching weights",
            "actors/count": "number of actors that sent something in the last minute",
        },
    ),
    MetricGroup(
        "Compiled maps",
        "Counts in this session, over all actors. Only with DeepMind Lab.",
        {
            "level_cache/hits": "maps that were loaded from `--level_cache`",
            "level_cache/misses": "maps that had to be compiled",
        },
    ),
    MetricGroup(
        "Evaluation",
        "With `--evaluate_every`.",
        {"evaluation/mean": "mean return of the last evaluation"},
    ),
    MetricGroup(
        "Faults",
        "Counts in this session. A column appears with its first fault.",
        {
            "faults/actors_restarted": "actors of local training that crashed and were restarted",
            "faults/connections_refused": "connections from the network that did not have the run's certificate",
            "faults/messages_refused": "messages and handshakes that were refused: the sum of the reasons below",
            "faults/samples_dropped": "samples dropped because their loss or gradient was not finite",
            "faults/trajectories_dropped": "trajectories dropped because an environment crashed",
            "faults/saves_failed": "checkpoints that could not be saved",
        }
        | {f"faults/refused_{reason}": f"refused because {text}" for reason, text in REASONS.items()},
    ),
)

# Tags under which the runs of other toolkits are compared, for the same value as ours: rollout/, train/ and eval/ are
# those of Stable-Baselines3, charts/ and losses/ those of CleanRL, both read by Open RL Benchmark. For loggers only;
# metrics.csv has each value once. Speeds have no alias: theirs are in steps, ours in frames.
ALIASES = {
    "return/mean": ("rollout/ep_rew_mean", "charts/episodic_return"),
    "episode_frames": ("rollout/ep_len_mean", "charts/episodic_length"),
    "evaluation/mean": ("eval/mean_reward",),
    "learning_rate": ("train/learning_rate", "charts/learning_rate"),
    "policy/entropy": ("losses/entropy",),
}


def finite_with_aliases(row: Mapping[str, float]) -> dict[str, float]:
    """The finite values of a row under all of their names, as loggers show them."""
    finite = {name: value for name, value in row.items() if math.isfinite(value)}
    return finite | {alias: finite[name] for name, others in ALIASES.items() if name in finite for alias in others}


def undocumented(columns: Iterable[str]) -> list[str]:
    """The columns without an entry."""
    names = [name for group in GROUPS for name in group.metrics]
    patterns = [
        re.compile(re.sub("<[a-z]+>", ".+", re.escape(name).replace(r"\<", "<").replace(r"\>", ">"))) for name in names
    ]
    return [column for column in columns if not any(pattern.fullmatch(column) for pattern in patterns)]
