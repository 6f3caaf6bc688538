"""Statistics over few runs as in rliable (Agarwal et al. 2021, arXiv 2108.13264): mean, IQM, bootstrap intervals.

The interquartile mean (IQM) is the mean of what is left when a quarter of the scores, rounded down, is cut off at each
end. The interval is the percentile bootstrap over runs, 95 %: of scores of several levels, each level is drawn apart
from the others (stratified).

Deviation: for few runs of one level all resamples are enumerated instead of 50,000 random ones drawn, which is what the
random ones converge to, and the same every time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 50_000  # for one number
CURVE_RESAMPLES = 2_000  # for each point of a curve
CUT = 0.25  # share of the scores that the IQM leaves out at each end
Statistic = Callable[[Any], Any]  # [..., scores] -> [...]


class Estimate(NamedTuple):
    """A statistic with its interval."""

    value: Any
    low: Any
    high: Any


def iqm(scores: Any) -> Any:
    """The interquartile mean over the last axis."""
    ordered = np.sort(scores, axis=-1)
    cut = int(CUT * ordered.shape[-1])
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def mean(scores: Any) -> Any:
    """The mean over the last axis."""
    return np.mean(scores, axis=-1)


def bootstrap(scores: Any, statistic: Statistic, resamples: int = RESAMPLES, seed: int = 1) -> Estimate:
    """The statistic of scores [runs, levels], over all of them, with its interval."""
    scores = np.asarray(scores, np.float64)
    runs, levels = scores.shape
    if levels == 1 and runs**runs <= resamples:
        rows = np.array(list(itertools.product(range(runs), repeat=runs)))  # [resamples, runs]
        drawn = scores[rows, 0]
    else:
        rows = np.random.default_rng(seed).integers(runs, size=(resamples, runs, levels))
        drawn = scores[rows, np.arange(levels)].reshape(resamples, runs * levels)
    values = statistic(drawn)  # [resamples]
    low, high = np.percentile(values, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Estimate(float(statistic(scores.reshape(-1))), float(low), float(high))


def bootstrap_curve(curves: Any, statistic: Statistic, seed: int = 1) -> Estimate:
    """The statistic at each point of curves [runs, points], with intervals [points]; whole runs are drawn."""
    curves = np.asarray(curves, np.float64)
    runs = curves.shape[0]
    if runs**runs <= CURVE_RESAMPLES:
        rows = np.array(list(itertools.product(range(runs), repeat=runs)))
    else:
        rows = np.random.default_rng(seed).integers(runs, size=(CURVE_RESAMPLES, runs))
    points = [statistic(column[rows]) for column in curves.T]  # of each point, [resamples]
    low, high = np.percentile(points, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], axis=1)
    return Estimate(statistic(curves.T), low, high)
