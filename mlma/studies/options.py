"""The settings of a study: those of the file's first lines, which are also flags of `mlma study`, and those of [pbt]
and [optuna].

Not here: the flags of its members, which are those of a run (mlma/core/config/).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from mlma.core.config import option
from mlma.core.config.limits import A_WEEK, MAX_ACTORS, MAX_LEARNERS

MAX_MEMBERS = 1000
CAPPED_SCORE = "score/capped"  # of runs with one level, too, which have no such column


@dataclasses.dataclass(frozen=True)
class StudyOptions:
    """Study."""

    seeds: int = option(
        1,
        "members with the same settings and different seeds, which count up from --seed; a population has a seed for "
        "each member",
        minimum=1,
        maximum=MAX_MEMBERS,
    )
    search: Literal["grid", "random", "optuna"] = option(
        "grid",
        "how [vary] becomes members: grid is all combinations; random is `trials` random ones; optuna is `trials` "
        "that Optuna chooses by the scores so far, where bad ones are stopped early",
    )
    trials: int = option(
        0,
        "combinations to try, with search=random, each with all seeds, or search=optuna",
        minimum=0,
        maximum=MAX_MEMBERS,
    )
    search_seed: int = option(
        1, "seed of random search, of Optuna, and of what PBT draws", minimum=0, maximum=2**31 - 1
    )
    at_once: int = option(
        0,
        "members that train at the same time; on this machine they share its cores, and 0 is one member per two "
        "cores; with a CSV, 0 is as many as its rows suffice for",
        minimum=0,
        maximum=MAX_MEMBERS,
    )
    restarts: int = option(3, "restarts in a row of a member that fails without progress", minimum=0, maximum=1_000_000)

    workers_csv_path: str = option(
        "",
        "CSV with one worker per row (docs/guides/cluster.md), whose rows are shared out among the members; empty: "
        "all members train on this machine",
        group="Cluster",
    )
    member_learners: int = option(1, "with a CSV: learners of each member", minimum=1, maximum=MAX_LEARNERS)
    member_actors: int = option(
        0, "with a CSV: actors of each member; 0 deals all actors of the CSV evenly", minimum=0, maximum=MAX_ACTORS
    )
    copy_seconds: float = option(
        10.0,
        "with a CSV: seconds between two checks of a member, each of which copies its new checkpoints and metrics to "
        "this machine",
        minimum=0.2,
        maximum=86_400,
    )
    lost_seconds: float = option(
        300.0,
        "with a CSV: if the host of a member's first learner does not answer for this many seconds, the member goes "
        "on at the next free place, from its last checkpoint here",
        minimum=1,
        maximum=A_WEEK,
    )


@dataclasses.dataclass(frozen=True)
class PbtOptions:
    """Population based training."""

    metric: str = option(
        "return/mean",
        "column of metrics.csv by which members are compared, higher is better; score/capped is the mean "
        "human-normalised score, each level capped at 100",
    )
    every_frames: float = option(
        0.0, "frames between two comparisons of a member; must be given", minimum=0, maximum=1e15
    )
    burn_in_frames: float = option(0.0, "frames before the first comparison", minimum=0, maximum=1e15)
    quantile: float = option(
        0.25,
        "share of members at the bottom, each of which copies one of as many at the top",
        minimum=0.001,
        maximum=0.5,
    )
    margin: float = option(
        0.0,
        "if above 0, used instead of quantile: a member is compared with another one at random, and copies it if that"
        " one is better by more than this; the IMPALA paper has 5, with score/capped",
        minimum=0,
        maximum=1e15,
    )
    factor: float = option(
        1.2, "a copied hyperparameter is multiplied or divided by this", minimum=1.0001, maximum=1000
    )
    perturb_probability: float = option(
        0.33, "probability with which each hyperparameter is multiplied or divided", minimum=0, maximum=1
    )
    resample_probability: float = option(
        0.0, "probability with which each hyperparameter is drawn anew from [vary] instead", minimum=0, maximum=1
    )


@dataclasses.dataclass(frozen=True)
class OptunaOptions:
    """Search with Optuna."""

    sampler: Literal["tpe", "random", "cmaes"] = option(
        "tpe", "what chooses the values of a trial; cmaes needs ranges in [vary], and dozens of trials"
    )
    pruner: Literal["median", "successive_halving", "none"] = option(
        "median",
        "what stops a trial: median, if its best score is below the median of the others after as many frames; "
        "successive_halving, if it is not among the best of each rung; none",
    )
    metric: str = option(
        "return/mean", "column of metrics.csv that is to be as high as possible; score/capped as in [pbt]"
    )
    every_frames: float = option(
        0.0, "frames between two reports of a trial; must be given with a pruner", minimum=0, maximum=1e15
    )
    startup_trials: int = option(
        4,
        "trials that must end before values are chosen by scores instead of at random, and that must finish before "
        "the median stops others",
        minimum=1,
        maximum=MAX_MEMBERS,
    )
    warmup_frames: float = option(0.0, "frames before which no trial is stopped", minimum=0, maximum=1e15)
    reduction_factor: int = option(
        3, "with successive_halving: one in this many trials goes on at each rung", minimum=2, maximum=MAX_MEMBERS
    )
