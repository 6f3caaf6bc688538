"""What of a run outlives its process, and how it comes back: counters, variables, the best return, seeds handed out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlma.core.config.config import Config
from mlma.distributed.allreduce import Allreduce
from mlma.learning.checkpoint import Checkpoints, check_compatible, load_checkpoint
from mlma.learning.learner import Learner
from mlma.monitoring.metrics import Metrics

IDENTITY_FIELDS = ("level_name", "algorithm", "agent_name", "num_stacked_frames")


def run_identity(config: Config) -> dict[str, Any]:
    """What a checkpoint must share with the run that loads it."""
    return {name: getattr(config, name) for name in IDENTITY_FIELDS}


class SeedAllocator:
    """Hands out environment seeds: never the same twice, also after a restart of an actor or of the run."""

    BLOCK = 1024  # more than the environments of one actor
    SKIP = 1000  # more than the actors that connected after the checkpoint of a run that crashed

    def __init__(self, seed: int, rank: int = 0, size: int = 1) -> None:
        """Rank r of n hands out every n-th block, beginning with its own."""
        self.base = int(np.random.default_rng(seed).integers(2**30))
        self.given = 0  # blocks before this one are used up
        self._rank, self._size = rank, size

    def next(self) -> int:
        block = self.given + self._rank
        self.given += self._size
        return (self.base + block * self.BLOCK) % 2**31

    def of(self, actor: int) -> int:
        """The seed of one of all actors of the run, whenever it comes."""
        return (self.base + (self.given + actor) * self.BLOCK) % 2**31


class RunState:
    """Saves and restores a learner."""

    def __init__(self, config: Config, learner: Learner, allreduce: Allreduce, say: Callable[[str], None]) -> None:
        self._checkpoints = Checkpoints(Path(config.logdir) / "checkpoints", config.keep_checkpoints)
        self._identity, self._learner, self._say = run_identity(config), learner, say
        self._allreduce = allreduce
        self.seeds = SeedAllocator(config.seed, allreduce.rank, allreduce.size)
        self.best, self.seconds = float("-inf"), 0.0

    def resume(self) -> None:
        """Rank 0 puts the last checkpoint in place, if there is one, and all begin with what it has.

        CheckpointMismatch if the checkpoint is of another run.
        """
        if self._allreduce.rank == 0:
            self._restore()
        mine = [self._learner.step, self._learner.frames, self.seeds.base, self.seeds.given, self.seconds]
        everyone = self._allreduce.gather(json.dumps(mine).encode())
        self._learner.step, self._learner.frames, self.seeds.base, self.seeds.given, self.seconds = json.loads(everyone[0])
        self._allreduce.broadcast(list(self._learner.variables().values()))

    def _restore(self) -> None:
        path = self._checkpoints.last()
        if path is None:
            return
        variables, meta = load_checkpoint(path)
        check_compatible(path, variables, meta, self._learner.variables(), self._identity)
        for name, variable in self._learner.variables().items():
            variable.assign(variables[name])
        self._learner.step, self._learner.frames = meta["step"], meta["frames"]
        self.seeds.base, self.seeds.given = meta["seeds"]
        self.seeds.given += SeedAllocator.SKIP
        self.best, self.seconds = meta["best"], meta["seconds"]
        self._say(f"resumed {path} at {self._learner.frames:,} frames")

    def save(self, metrics: Metrics) -> bool:
        """False, with a line, if the disk does not take it: a full disk must not end weeks of training."""
        mean = metrics.mean_return()
        better = metrics.full_window() and mean > self.best
        meta = self._identity | {
            "step": self._learner.step,
            "frames": self._learner.frames,
            "seconds": metrics.seconds,
            "return": mean,
            "best": mean if better else self.best,
            "seeds": [self.seeds.base, self.seeds.given],
        }
        variables = {name: variable.numpy() for name, variable in self._learner.variables().items()}
        try:
            path = self._checkpoints.save(self._learner.step, variables, meta)
            if better:
                self._checkpoints.save_best(variables, meta)
                self.best = mean
        except OSError as problem:
            self._say(f"could not save a checkpoint: {problem}; training goes on, the last one stays")
            metrics.count("saves_failed")
            return False
        self._say(f"saved {path}")
        return True
