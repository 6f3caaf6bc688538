"""What the averaging of gradients costs: `mpirun -np N python -m benchmarks.allreduce`, an entry point like experiment.py.

For each network, milliseconds of the learner's own `reduce` inside a tf.function, of the train step of one learner alone, and
of the train step of all together; medians. The share is the first of the last. Learners on one host share its cores, so all of
them compute at the same time in each measurement.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.roofline import AGENTS, learner_and_sample
from mlma.core.config import parse_or_exit
from mlma.distributed.world import World
from mlma.utils.child_process import available_cores
from mlma.utils.tensorflow_setup import import_tensorflow

HEAD = ("network", "weights", "MB", "allreduce, ms", "step alone, ms", "step of all, ms", "share")


def milliseconds(call: Callable[[], Any], times: int) -> float:
    call(), call()
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="After --: flags of experiment.py.")
    parser.add_argument("--times", type=int, default=50, help="calls that the medians are over (50)")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow in each learner (its share of the cores)")
    parser.add_argument("--agents", default=",".join(AGENTS), help="networks to measure, with commas between")
    parser.add_argument("flags", nargs="*", help="flags of experiment.py, after --")
    arguments = parser.parse_args()
    given = [parse_or_exit([*arguments.flags, f"--agent_name={name}"]) for name in arguments.agents.split(",")]
    import_tensorflow()
    import tensorflow as tf

    from mlma.distributed.allreduce import SingleProcess, connect_learners
    from mlma.utils.tensorflow_setup import set_tensorflow_threads
    from mlma.utils.tf_function import tf_function

    set_tensorflow_threads(arguments.threads or available_cores())
    learners = connect_learners(given[0])
    rows = []
    for config in given:
        alone, sample = learner_and_sample(config, SingleProcess())
        together, _ = learner_and_sample(config, learners)
        gradients = [tf.ones_like(v) for v in alone.weights.variables]
        reduce = tf_function(lambda gradients=gradients: learners.allreduce_sum(gradients, tf.zeros([5])))
        cost = milliseconds(reduce, arguments.times)
        step = milliseconds(functools.partial(alone.train, sample), arguments.times)
        learners.gather(b"")  # all begin the next measurement together
        whole = milliseconds(functools.partial(together.train, sample), arguments.times)
        count = alone.weights.count
        numbers = f"{count:,}", f"{4e-6 * count:.1f}", f"{cost:.1f}", f"{step:.0f}", f"{whole:.0f}", f"{cost / whole:.0%}"
        rows.append((config.run.agent_name, *numbers))
    if learners.rank == 0:
        print(
            f"{learners.size} learners, {World.from_environment().local_size} on this host; {given[0].compression} compression"
        )
        for row in (HEAD, ["---"] * len(HEAD), *rows):
            print(f"| {' | '.join(row)} |", flush=True)
    learners.shutdown()


if __name__ == "__main__":
    main()
