"""Returns and lengths of recent episodes: of one learner, and merged over all learners at each report."""

from __future__ import annotations

import collections
import itertools
import math
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mlma.envs import reference_scores

Row = dict[str, float]
EPISODE_WINDOW = 100  # episodes that the statistics cover
MIN_EPISODES_PER_LEVEL = 5  # episodes of each of several levels before their mean is compared
MAX_NEW_EPISODES = 20_000  # that a learner keeps between two reports; more are only counted


class EpisodeStatistics:
    """Collects the episodes that end at this learner; windows over those of all learners. One thread adds, another
    reports."""

    def __init__(self, levels: Sequence[str] = ()) -> None:
        """With several levels, each has statistics of its own too."""
        self._lock = threading.Lock()
        # [return, frames, level], since the last `drain`; and how many there were.
        self._new: collections.deque[list[float]] = collections.deque(maxlen=MAX_NEW_EPISODES)
        self._num_new = 0
        self._new_greedy: collections.deque[float] = collections.deque(maxlen=MAX_NEW_EPISODES)
        self._window: collections.deque[list[float]] = collections.deque(maxlen=EPISODE_WINDOW)
        # Returns of the smallest epsilons.
        self._greedy: collections.deque[float] = collections.deque(maxlen=EPISODE_WINDOW)
        self._levels = list(levels) if len(levels) > 1 else []
        self._by_level = [collections.deque[float](maxlen=EPISODE_WINDOW) for _ in self._levels]  # returns
        self._count = 0

    def add(
        self, returns: Iterable[float], frames: Iterable[int], greedy: Iterable[bool] = (), levels: Iterable[int] = ()
    ) -> None:
        """Adds ended episodes. `greedy[i]`: whether episode i had a small epsilon (algorithms with an epsilon ladder);
        `levels[i]`: its level, in runs with several."""
        with self._lock:
            new = [list(each) for each in itertools.zip_longest(returns, frames, levels, fillvalue=0)]
            self._new.extend(new)
            self._num_new += len(new)
            self._new_greedy += [r for r, small_epsilon in zip(returns, greedy, strict=False) if small_epsilon]

    def drain(self) -> dict[str, Any]:
        """The episodes of this learner since the previous call, for `merge` on the learner that reports."""
        with self._lock:
            part = {"ended": list(self._new), "greedy": list(self._new_greedy), "num_ended": self._num_new}
            self._new.clear()
            self._new_greedy.clear()
            self._num_new = 0
        return part

    def merge(self, parts: Iterable[dict[str, Any]]) -> None:
        """Adds what each learner drained to the windows."""
        parts = list(parts)
        ended = _interleaved([part["ended"] for part in parts])
        self._window.extend(ended)
        for value, _, level in ended:
            if self._levels:
                self._by_level[int(level)].append(value)
        self._count += sum(part["num_ended"] for part in parts)
        self._greedy.extend(_interleaved([part.get("greedy", []) for part in parts]))

    def mean_return(self) -> float:
        """Mean return over the window, as last reported: of greedy episodes where there are any; for several levels
        their mean score, or the mean over their means if some have no published score."""
        if self._levels:
            row = self._level_row()
            return row.get("score/mean", row.get("return/mean_of_levels", math.nan))
        if self._greedy:
            return float(np.mean(self._greedy))
        return float(np.mean([r for r, *_ in self._window])) if self._window else math.nan

    def full_window(self) -> bool:
        """Whether enough episodes ended to compare their mean: a full window, of greedy ones if these are what counts,
        and for several levels some episodes of each."""
        counted = self._window if self._levels or not self._greedy else self._greedy
        return len(counted) == EPISODE_WINDOW and all(len(r) >= MIN_EPISODES_PER_LEVEL for r in self._by_level)

    def row(self) -> Row:
        """The columns of a report."""
        returns = np.array([r for r, *_ in self._window])
        some = len(returns) > 0
        row: Row = {
            "episodes": self._count,
            "return/mean": float(returns.mean()) if some else math.nan,
            "return/median": float(np.median(returns)) if some else math.nan,
            "return/max": float(returns.max()) if some else math.nan,
            "episode_frames": float(np.mean([f for _, f, _ in self._window])) if some else math.nan,
        }
        row |= self._level_row()
        return row | ({"return/greedy": float(np.mean(self._greedy))} if self._greedy else {})

    def _level_row(self) -> Row:
        """Mean return and score of each level; the scores over all levels if each has a published one."""
        means = {name: float(np.mean(r)) for name, r in zip(self._levels, self._by_level, strict=True) if r}
        if not means:
            return {}
        ranges = {name: reference_scores.level_range(name) for name in means}
        scores = {name: known.normalised(means[name]) for name, known in ranges.items() if known}
        row = {f"level_return/{name}": mean for name, mean in means.items()}
        row |= {f"level_score/{name}": score for name, score in scores.items()}
        row["return/mean_of_levels"] = float(np.mean(list(means.values())))
        if len(scores) == len(means):
            score = reference_scores.aggregate(scores)
            row |= {"score/mean": score.mean, "score/median": score.median}
            row |= {"score/capped": score.mean_capped, "score/levels": len(scores)}
        return row


def _interleaved(sequences: Sequence[list[Any]]) -> list[Any]:
    """All elements, with those of each learner spread evenly: a window over the last ones must not be of one alone."""
    keyed = [((i + 1) / len(each), element) for each in sequences for i, element in enumerate(each)]
    return [element for _, element in sorted(keyed, key=lambda pair: pair[0])]
