"""The settings of a study: those of the file's first lines, which are also flags of `mlma study`, and those of [pbt].

Not here: the flags of its members, which are those of a run (mlma/core/config/).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from mlma.core.config import option

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
    search: Literal["grid", "random"] = option(
        "grid", "how [vary] becomes members: grid is all combinations; random is `trials` random ones"
    )
    trials: int = option(
        0, "random combinations to try, each with all seeds; with search=random", minimum=0, maximum=MAX_MEMBERS
    )
    search_seed: int = option(1, "seed of random search, and of what PBT draws", minimum=0, maximum=2**31 - 1)
    at_once: int = option(
        0,
        "members that train at the same time on this machine, which share its cores; 0 is one for two cores",
        minimum=0,
        maximum=MAX_MEMBERS,
    )
    restarts: int = option(3, "restarts in a row of a member that fails without progress", minimum=0, maximum=1_000_000)


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
        0.25, "share of members at the bottom that copy one of as many at the top", minimum=0.001, maximum=0.5
    )
    margin: float = option(
        0.0,
        "above 0, instead of quantile: a member is compared with another one at random, and copies it if that one is "
        "better by more than this; 5 with score/capped in the IMPALA paper",
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
