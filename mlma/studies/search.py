"""What varies between members: values of a flag, the members of a grid or of a random search.

A flag in [vary] has a list of values, or a range {low, high, scale}, which random search, Optuna and PBT draw from.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

from mlma.core.config.config_file import parse_value
from mlma.core.config.flags import Flag, did_you_mean
from mlma.utils.user_text import shown

SCALES = ("log", "linear")
RANGE_FORM = "a list of values, or { low = 1e-5, high = 1e-2, scale = log | linear }"


class Values(NamedTuple):
    """A flag that takes one of these values."""

    choices: tuple[Any, ...]

    def draw(self, random_numbers: random.Random) -> Any:
        """One of them."""
        return random_numbers.choice(self.choices)

    def end(self, first: bool) -> Any:
        """The first or the last one."""
        return self.choices[0 if first else -1]

    def as_json(self) -> Any:
        """As it stands in a file."""
        return list(self.choices)


class Range(NamedTuple):
    """A flag that takes a number between two, whose logarithm may be what is drawn evenly."""

    low: float
    high: float
    is_log: bool
    is_integer: bool

    def draw(self, random_numbers: random.Random) -> Any:
        """A number in it."""
        if self.is_log:
            number = math.exp(random_numbers.uniform(math.log(self.low), math.log(self.high)))
        else:
            number = random_numbers.uniform(self.low, self.high)
        number = min(self.high, max(self.low, number))
        return round(number) if self.is_integer else float(f"{number:.6g}")

    def end(self, first: bool) -> Any:
        """The lowest or the highest."""
        return self.low if first else self.high

    def as_json(self) -> Any:
        """As it stands in a file."""
        return {"low": self.low, "high": self.high, "scale": SCALES[0] if self.is_log else SCALES[1]}


Variation = Values | Range


def parse_variation(flag: Flag, value: Any) -> Variation:
    """ValueError in one line for what is neither a list nor a range of values that the flag may have."""
    if isinstance(value, list):
        if not value:
            raise ValueError(f"vary: {flag.name}: needs at least one value")
        choices = tuple(parse_value(flag, each) for each in value)
        if len(set(choices)) < len(choices):
            raise ValueError(f"vary: {flag.name}: has a value twice")
        return Values(choices)
    if not isinstance(value, dict):
        raise ValueError(f"vary: {flag.name}: must be {RANGE_FORM}")
    return _range(flag, value)


def _range(flag: Flag, value: Mapping[str, Any]) -> Range:
    for name in value:
        if name not in ("low", "high", "scale"):
            raise ValueError(f"vary: {flag.name}: {shown(name)}: no such word; must be {RANGE_FORM}")
    if flag.type not in (int, float) or not {"low", "high"} <= value.keys():
        wanted = RANGE_FORM if flag.type in (int, float) else "a list of values, since it is no number"
        raise ValueError(f"vary: {flag.name}: must be {wanted}")
    scale = value.get("scale", SCALES[1])
    if scale not in SCALES:
        hint = did_you_mean(str(scale), SCALES)
        raise ValueError(f"vary: {flag.name}: scale {shown(str(scale))}: must be log or linear{hint}")
    low, high = parse_value(flag, value["low"]), parse_value(flag, value["high"])
    if not low < high or (scale == "log" and low <= 0):
        above = "0 < low < high with scale = log" if scale == "log" else "low < high"
        raise ValueError(f"vary: {flag.name}: low {low:g}, high {high:g}: must be {above}")
    return Range(low, high, scale == "log", flag.type is int)


def grid(vary: Mapping[str, Variation]) -> list[dict[str, Any]]:
    """All combinations; the last flag changes fastest. ValueError for a range, which has no end of values."""
    for name, variation in vary.items():
        if isinstance(variation, Range):
            raise ValueError(f"vary: {name}: a grid needs a list of values; ranges need: search = random or optuna")
    choices = [variation.choices for variation in vary.values() if isinstance(variation, Values)]
    return [dict(zip(vary, combination, strict=True)) for combination in itertools.product(*choices)]


def random_search(vary: Mapping[str, Variation], trials: int, seed: int) -> list[dict[str, Any]]:
    """Random combinations. More trials begin with the same ones."""
    random_numbers = random.Random(f"search {seed}")
    return [{name: variation.draw(random_numbers) for name, variation in vary.items()} for _ in range(trials)]
