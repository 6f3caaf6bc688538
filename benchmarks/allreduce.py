"""Measures the cost of averaging gradients: `mpirun -np N python -m benchmarks.allreduce`. Prints Markdown.

For each network, medians in milliseconds of: `allreduce_sum` of its gradients within a tf.function, the update of a
single learner, and the update of all learners together. The share is the first divided by the last. Learners on one
host share its cores, so all of them compute at the same time in every measurement.
"""

from __future__ import annotations

import argparse
import functools

from benchmarks.common import learner_and_sample, markdown_head, markdown_row, median_seconds
from benchmarks.roofline import AGENTS
from mlma.core.config import parse_or_exit
from mlma.distributed.world import World
from mlma.utils.child_process import available_cores
from mlma.utils.tensorflow_setup import import_tensorflow, set_tensorflow_threads

COLUMNS = ("network", "weights", "MB", "allreduce, ms", "single update, ms", "joint update, ms", "share")


def main() -> None:
    """Measures each network; the first learner prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="After --: flags of experiment.py.")
    parser.add_argument("--times", type=int, default=50, help="calls per median (50)")
    parser.add_argument(
        "--threads", type=int, default=0, help="TensorFlow threads of each learner (its share of the cores)"
    )
    parser.add_argument("--agents", default=",".join(AGENTS), help="networks to measure, separated by commas")
    parser.add_argument("flags", nargs="*", help="flags of experiment.py, after --")
    arguments = parser.parse_args()
    configs = [parse_or_exit([*arguments.flags, f"--agent_name={name}"]) for name in arguments.agents.split(",")]
    import_tensorflow()
    import tensorflow as tf

    from mlma.distributed.allreduce import SingleProcess, connect_learners
    from mlma.utils.tf_function import tf_function

    set_tensorflow_threads(arguments.threads or available_cores())
    allreduce = connect_learners(configs[0].distributed)
    rows = []
    for config in configs:
        single, sample = learner_and_sample(config, SingleProcess())
        joint, _ = learner_and_sample(config, allreduce)
        gradients = [tf.ones_like(v) for v in single.weights.trainable]
        reduce = tf_function(lambda gradients=gradients: allreduce.allreduce_sum(gradients, tf.zeros([5])))
        reduce_ms = 1000 * median_seconds(reduce, arguments.times, warm_up=2)
        single_ms = 1000 * median_seconds(functools.partial(single.update, sample), arguments.times, warm_up=2)
        allreduce.gather(b"")  # all learners start the next measurement together
        joint_ms = 1000 * median_seconds(functools.partial(joint.update, sample), arguments.times, warm_up=2)
        count = single.weights.count
        cells = f"{count:,}", f"{4e-6 * count:.1f}", f"{reduce_ms:.1f}", f"{single_ms:.0f}", f"{joint_ms:.0f}"
        rows.append((config.run.agent_name, *cells, f"{reduce_ms / joint_ms:.0%}"))
    if allreduce.rank == 0:
        on_host, compression = World.from_environment().local_size, configs[0].distributed.compression
        print(f"{allreduce.size} learners, {on_host} on this host; {compression} compression")
        print("\n".join((markdown_head(COLUMNS), *map(markdown_row, rows))), flush=True)
    allreduce.shutdown()


if __name__ == "__main__":
    main()
