"""Population based training (Jaderberg et al. 2017, arXiv 1711.09846): who copies whom, and what changes then.

As in the IMPALA paper (Espeholt et al. 2018, arXiv 1802.01561, appendix F): a member that does worse takes weights,
optimizer and hyperparameters of a better one (exploit); then its hyperparameters are multiplied or divided by a factor
(explore). Only decisions: what is done about them is in evolution.py.

Deviation: discounting changes by its distance to 1, since a discount of 0.99 multiplied by 1.2 is none.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from mlma.core.config.flags import Flag
from mlma.studies.options import PbtOptions
from mlma.studies.search import Variation

DISCOUNT = "discounting"


def choose_parent(
    member: int, scores: Mapping[int, float], donors: set[int], pbt: PbtOptions, random_numbers: random.Random
) -> int | None:
    """The member whose weights `member` should copy; None if it should go on with its own."""
    if pbt.margin > 0:
        others = sorted(donors - {member})
        other = random_numbers.choice(others) if others else member
        return other if scores[other] > scores[member] + pbt.margin else None
    ranked = sorted(scores, key=lambda each: (scores[each], each))
    count = max(1, int(pbt.quantile * len(ranked)))
    best = [each for each in ranked[-count:] if each in donors and scores[each] > scores[member]]
    return random_numbers.choice(best) if member in ranked[:count] and best else None


def explore(
    values: Mapping[str, Any],
    vary: Mapping[str, Variation],
    table: Mapping[str, Flag],
    pbt: PbtOptions,
    random_numbers: random.Random,
) -> dict[str, Any]:
    """The hyperparameters of a copy, from those of its parent; within the bounds of their flags."""
    changed = dict(values)
    for name, variation in vary.items():
        if random_numbers.random() < pbt.resample_probability:
            changed[name] = variation.draw(random_numbers)
        elif random_numbers.random() < pbt.perturb_probability:
            factor = random_numbers.choice([pbt.factor, 1 / pbt.factor])
            value = 1 - (1 - values[name]) * factor if name == DISCOUNT else values[name] * factor
            changed[name] = _within(table[name], float(f"{value:.6g}"))
    return changed


def _within(flag: Flag, value: float) -> float:
    value = value if flag.maximum is None else min(value, flag.maximum)
    return max(value, 1e-9)  # 0 and below stand for other values
