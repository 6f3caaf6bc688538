"""The state of a run that outlives its process: counters, variables, best return, allocated seeds. Saved and restored
here."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlma.core.config import Config
from mlma.core.flat_weights import build_variables
from mlma.core.types import Agent, EnvSpec
from mlma.distributed.allreduce import Allreduce
from mlma.learning.checkpoint import Checkpoints, check_compatible
from mlma.learning.checkpoint_file import META_CHECKS, CheckpointMismatchError
from mlma.learning.learner import Learner
from mlma.monitoring.metrics import Metrics
from mlma.utils.side_task import describe

logger = logging.getLogger(__name__)

READ_AGAIN_SECONDS = 0.05  # longer than an update of the variables takes to go on
IDENTITY_FLAGS = (
    "level_name", "env_args", "algorithm", "agent_name", "num_stacked_frames", "pixel_scaling", "action_bounds",
)  # fmt: skip


def run_identity(config: Config) -> dict[str, Any]:
    """The flags that a checkpoint must share with the run that loads it."""
    return {name: config.get(name) for name in IDENTITY_FLAGS}


def build_learner(config: Config, spec: EnvSpec, agent: Agent, allreduce: Allreduce) -> Learner:
    """A learner with initial weights, which `RunState.resume` may replace."""
    build_variables(agent, spec)
    return Learner(config, agent, spec.action_repeats, allreduce)


class SeedAllocator:
    """Allocates environment seeds: never the same twice, not even after a restart of an actor or of the run."""

    BLOCK = 1024  # seeds per actor: more than the environments of one
    SKIP = 1000  # blocks of each rank skipped on resuming: more than the actors that connected after the checkpoint

    def __init__(self, seed: int, rank: int = 0, num_ranks: int = 1) -> None:
        """Rank r of n allocates every n-th block, starting with its own."""
        self.base = int(np.random.default_rng(seed).integers(2**30))
        self.allocated = 0  # blocks before this one are used up
        self._rank, self._num_ranks = rank, num_ranks

    def allocate(self) -> int:
        """The next seed of this rank."""
        block = self.allocated + self._rank
        self.allocated += self._num_ranks
        return (self.base + block * self.BLOCK) % 2**31

    def skip(self) -> None:
        """On resuming: what was allocated after the checkpoint, on any rank, is used up, too."""
        self.allocated += self.SKIP * self._num_ranks

    def for_actor(self, actor: int) -> int:
        """The seed of this actor of the run, whenever it connects."""
        return (self.base + (self.allocated + actor) * self.BLOCK) % 2**31


class RunState:
    """Saves and restores a learner."""

    def __init__(self, config: Config, learner: Learner, allreduce: Allreduce) -> None:
        self._checkpoints = Checkpoints(Path(config.run.logdir) / "checkpoints", config.reports.keep_checkpoints)
        self._identity, self._learner, self._allreduce = run_identity(config), learner, allreduce
        self.seeds = SeedAllocator(config.run.seed, allreduce.rank, allreduce.size)
        self.best, self.seconds = float("-inf"), 0.0

    def resume(self) -> None:
        """Rank 0 restores the last checkpoint that can be read, if any; then all ranks start with its state.

        CheckpointMismatchError, on all ranks, if the checkpoint is of another run or none can be read.
        """
        problem = ""
        if self._allreduce.rank == 0:
            try:
                self._restore()
            except CheckpointMismatchError as error:
                problem = str(error)
            except Exception as error:  # the other ranks wait for this one and must learn of it
                problem = f"the last checkpoint could not be restored: {describe(error)}"
        own = [self._learner.step, self._learner.frames, self.seeds.base, self.seeds.allocated, self.seconds, problem]
        first = json.loads(self._allreduce.gather(json.dumps(own).encode())[0])
        self._learner.step, self._learner.frames, self.seeds.base, self.seeds.allocated, self.seconds, problem = first
        if problem:
            raise CheckpointMismatchError(problem)
        self._allreduce.broadcast(list(self._learner.variables().values()))

    def _restore(self) -> None:
        loaded = self._checkpoints.load_last()
        if loaded is None:
            return
        path, variables, meta, damaged = loaded
        if missing := sorted(META_CHECKS.keys() - meta.keys()):
            raise CheckpointMismatchError(f"{path}: its description lacks {', '.join(missing)}")
        check_compatible(path, variables, meta, self._learner.variables(), self._identity)
        for name, variable in self._learner.variables().items():
            variable.assign(variables[name])
        self._learner.step, self._learner.frames = meta["step"], meta["frames"]
        self.seeds.base, self.seeds.allocated = meta["seeds"]
        self.seeds.skip()
        self.best, self.seconds = meta["best"], meta["seconds"]
        self._checkpoints.set_aside(damaged)
        logger.info("resumed %s at %s frames", path, f"{self._learner.frames:,}")

    def _read_between_updates(self) -> dict[str, Any]:
        """The variables while the learner's step may go on in another thread: two readings of them are equal."""
        while True:
            step, before = self._learner.step, self._read()
            time.sleep(READ_AGAIN_SECONDS)
            after = self._read()
            if step == self._learner.step and all(after[name].tobytes() == before[name].tobytes() for name in before):
                return before

    def _read(self) -> dict[str, Any]:
        return {name: variable.numpy() for name, variable in self._learner.variables().items()}

    def save(self, metrics: Metrics, during_step: bool = False) -> bool:
        """False, with a warning, if the disk or the memory is full: that must not end weeks of training.

        `during_step` if another thread may be within a learner step: what is saved is the state before it.
        """
        mean = metrics.episodes.mean_return()
        better = metrics.episodes.full_window() and mean > self.best
        meta = self._identity | {
            "step": self._learner.step,
            "frames": self._learner.frames,
            "seconds": metrics.seconds,
            "return": mean,
            "best": mean if better else self.best,
            "seeds": [self.seeds.base, self.seeds.allocated],
        }
        try:
            variables = self._read_between_updates() if during_step else self._read()
            path = self._checkpoints.save(self._learner.step, variables, meta)
            if better:
                self._checkpoints.save_best(variables, meta)
                self.best = mean
        except (OSError, MemoryError) as problem:
            reason = describe(problem)
            logger.warning("could not save a checkpoint: %s; training continues, the previous one stays", reason)
            metrics.count_fault("saves_failed")
            return False
        logger.info("saved %s", path)
        return True
