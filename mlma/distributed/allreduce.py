"""Collective communication between learners: the only file that imports Horovod. A single learner needs none of it.

All ranks make the same calls in the same order: one `allreduce_sum` in each learner step, and `gather` when the reduced
flags ask for a report. Not here: what is averaged (mlma/learning/learner.py), hanging ranks
(mlma/distributed/hang_detector.py).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import tensorflow as tf

from mlma.core.config import DistributedConfig
from mlma.distributed.world import World
from mlma.utils.child_process import EXIT_HUNG
from mlma.utils.code_layout import setup_hint

START_WARNING_SECONDS = 10.0  # between two lines about learners that have not started yet
START_TIMEOUT_SECONDS = 600.0  # after which learners that have not started are given up


class Allreduce(Protocol):
    """What the system needs of several learners."""

    rank: int
    size: int

    def allreduce_sum(self, gradients: list[tf.Tensor], scalars: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The sums over all ranks; part of a tf.function."""
        ...

    def gather(self, data: bytes) -> list[bytes]:
        """What each rank passed, by rank."""
        ...

    def broadcast(self, variables: list[tf.Variable]) -> None:
        """Gives all ranks the values of rank 0."""
        ...

    def shutdown(self) -> None:
        """Ends the communication, on all ranks."""
        ...


def connect_learners(config: DistributedConfig) -> Allreduce:
    """ValueError in one line if Horovod is missing or the number of learners is not --num_learners."""
    size = World.from_environment().size
    if config.num_learners and size != config.num_learners:
        raise ValueError(f"--num_learners={config.num_learners}: mpirun started {size}; allowed: that number, or 0")
    return HorovodAllreduce(config.compression) if size > 1 else SingleProcess()


class SingleProcess:
    """A single learner."""

    rank, size = 0, 1

    def allreduce_sum(self, gradients: list[tf.Tensor], scalars: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        return gradients, scalars

    def gather(self, data: bytes) -> list[bytes]:
        return [data]

    def broadcast(self, variables: list[tf.Variable]) -> None:
        pass

    def shutdown(self) -> None:
        pass


class HorovodAllreduce:
    """Several learners under mpirun."""

    def __init__(self, compression: str) -> None:
        os.environ["HOROVOD_CONTROLLER"] = os.environ["HOROVOD_CPU_OPERATIONS"] = "mpi"  # others give runs of size 1
        os.environ.setdefault("HOROVOD_STALL_CHECK_DISABLE", "1")  # hang_detector.py names the rank
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "0.5")  # milliseconds: docs/benchmarks/allreduce.md
        world = World.from_environment()
        if world.size > 2:  # a ring: between hosts, Open MPI's default takes up to three times as long
            os.environ.setdefault("OMPI_MCA_coll_tuned_use_dynamic_rules", "1")
            os.environ.setdefault("OMPI_MCA_coll_tuned_allreduce_algorithm", "4")
        try:
            import horovod.tensorflow as hvd
        except ImportError as problem:
            raise ValueError(
                f"several learners need Horovod, which {sys.executable} lacks ({problem}); "
                f"install it with: {setup_hint('install-learner')}"
            ) from None
        with _warn_of_late_ranks(world):
            hvd.init()
        self._hvd = hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        if self.size != world.size:
            raise ValueError(
                f"mpirun started {world.size} learners, but Horovod sees {self.size}, so it was probably built without "
                f"MPI; install it again: {setup_hint('install-learner')}"
            )
        self._half = compression == "fp16"

    def allreduce_sum(self, gradients: list[tf.Tensor], scalars: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        flat = tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)  # one message instead of one per variable
        if self._half:
            flat = tf.cast(flat, tf.float16)  # a group has a single dtype
            flat = self._hvd.allreduce(flat, op=self._hvd.Sum, name="gradients", ignore_name_scope=True)
            scalars = self._hvd.allreduce(scalars, op=self._hvd.Sum, name="scalars", ignore_name_scope=True)
        else:
            flat, scalars = self._hvd.grouped_allreduce(
                [flat, scalars], op=self._hvd.Sum, name="step", ignore_name_scope=True
            )
        parts = tf.split(tf.cast(flat, tf.float32), [int(np.prod(g.shape)) for g in gradients])
        return [tf.reshape(part, g.shape) for part, g in zip(parts, gradients, strict=True)], scalars

    def gather(self, data: bytes) -> list[bytes]:
        lengths = self._hvd.allgather(tf.constant([len(data)]), name="lengths").numpy()
        joined = self._hvd.allgather(tf.constant(np.frombuffer(data, np.uint8)), name="data").numpy()
        return [part.tobytes() for part in np.split(joined, np.cumsum(lengths)[:-1])]

    def broadcast(self, variables: list[tf.Variable]) -> None:
        self._hvd.broadcast_variables(variables, root_rank=0)

    def shutdown(self) -> None:
        self._hvd.shutdown()


@contextlib.contextmanager
def _warn_of_late_ranks(world: World) -> Iterator[None]:
    """MPI waits silently until all ranks have started: logs that, and exits after START_TIMEOUT_SECONDS."""
    started = threading.Event()

    def watch() -> None:
        began = time.monotonic()
        while not started.wait(START_WARNING_SECONDS):
            waited = time.monotonic() - began
            limit = f"for {waited:.0f} s of {START_TIMEOUT_SECONDS:.0f}"
            line = f"learner {world.rank}: waits for the other learners to start, {limit}"
            print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
            if waited > START_TIMEOUT_SECONDS:
                os._exit(EXIT_HUNG)

    threading.Thread(target=watch, name="late-ranks", daemon=True).start()
    yield
    started.set()
