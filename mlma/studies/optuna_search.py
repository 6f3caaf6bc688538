"""Optuna's part of a study: which values a trial gets, and whether it is worth going on with.

Optuna keeps all in memory. A controller that starts again tells it what the journal has, event by event, and gets the
same sampler and pruner, whatever these remember (optimizer of CMA-ES, rungs of successive halving). Each trial is drawn
with a seed of its own, that of the study and its number: with one sequence of random numbers, a controller that starts
again would draw the first trials once more.

The only file that imports Optuna, and with it numpy: mlma/studies/trials.py imports it when a study needs it.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from typing import Any

import optuna

from mlma.studies.options import OptunaOptions
from mlma.studies.search import Range, Variation


class OptunaSearch:
    """The trials of a study as Optuna knows them, numbered as members are."""

    def __init__(self, vary: Mapping[str, Variation], options: OptunaOptions, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self._vary, self._options, self._seed = vary, options, seed
        self._distributions = {name: _distribution(variation) for name, variation in vary.items()}
        self._study = optuna.create_study(direction="maximize", pruner=_pruner(options))
        self._trials: list[optuna.Trial] = []

    def ask(self, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The values of the next trial; those of the journal, if it is known from there."""
        if known is not None:
            self._study.enqueue_trial({name: known[name] for name in self._vary})
        self._study.sampler = self._sampler(len(self._trials))
        trial = self._study.ask(self._distributions)
        if known is not None:
            _ = trial.relative_params  # Optuna asks no sampler for known values, and CMA-ES would not count the trial
        self._trials.append(trial)
        return {name: _rounded(self._vary[name], value) for name, value in trial.params.items()}

    def report(self, trial: int, step: int, score: float) -> bool:
        """Whether the trial should be stopped, now that it has this score."""
        self._trials[trial].report(score, step)
        return bool(self._trials[trial].should_prune())

    def stopped(self, trial: int) -> None:
        """It has been stopped: its value is the last one reported."""
        self._study.tell(self._trials[trial], state=optuna.trial.TrialState.PRUNED)

    def finished(self, trial: int, score: float | None) -> None:
        """It has trained to its end; without a score it counts for nothing."""
        if score is None:
            self._study.tell(self._trials[trial], state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(self._trials[trial], score)

    def _sampler(self, trial: int) -> optuna.samplers.BaseSampler:
        """One whose draws depend on nothing but the study and its trials so far."""
        seed, startup = random.Random(f"optuna {self._seed} {trial}").randrange(2**32), self._options.startup_trials
        if self._options.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self._options.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(n_startup_trials=startup, seed=seed, warn_independent_sampling=False)
        return optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)


def _distribution(variation: Variation) -> optuna.distributions.BaseDistribution:
    if not isinstance(variation, Range):
        return optuna.distributions.CategoricalDistribution(variation.choices)
    if variation.is_integer:
        return optuna.distributions.IntDistribution(int(variation.low), int(variation.high), log=variation.is_log)
    return optuna.distributions.FloatDistribution(variation.low, variation.high, log=variation.is_log)


def _pruner(options: OptunaOptions) -> optuna.pruners.BasePruner:
    warmup = int(options.warmup_frames // options.every_frames) if options.every_frames else 0
    if options.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=options.startup_trials, n_warmup_steps=warmup)
    if options.pruner == "successive_halving":
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=max(1, warmup), reduction_factor=options.reduction_factor
        )
    return optuna.pruners.NopPruner()


def _rounded(variation: Variation, value: Any) -> Any:
    """As random search rounds it; inside its range."""
    if isinstance(variation, Range) and not variation.is_integer:
        return min(variation.high, max(variation.low, float(f"{value:.6g}")))
    return value
