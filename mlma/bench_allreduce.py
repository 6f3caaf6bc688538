"""What the averaging of gradients costs: `mpirun -np N python -m mlma.bench_allreduce`, an entry point like experiment.py.

For each network, milliseconds per call of the learner's own `reduce` inside a tf.function, and of the train step without it;
medians. Learners on one host share its cores, so the step is measured while all of them compute.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

from mlma import config as flags
from mlma import presets, quiet
from mlma.mpirun import World

AGENTS = ("ShallowConvNetAgent", "SimpleConvNetAgent", "ResNetLSTMAgent")


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
    parser.add_argument("--times", type=int, default=50, help="calls that the median is over (50)")
    parser.add_argument("flags", nargs="*", help="flags of experiment.py, after --")
    arguments = parser.parse_args()
    given = [flags.parse_or_exit([*arguments.flags, f"--agent_name={name}"]) for name in AGENTS]
    quiet.import_tensorflow()
    import tensorflow as tf

    import agents
    from mlma import allreduce, envs, learner, memory, roles, weights, wire

    roles.threads(max(1, presets.cores()))
    learners = allreduce.connect(given[0])
    if learners.rank == 0:
        print(f"{learners.size} learners, {World.here().local_size} on this host; {given[0].compression} compression")
        print("| network | weights | MB | allreduce, ms | train step without it, ms | share of both |")
        print("|---|---|---|---|---|---|")
    for config in given:
        spec = envs.spec_of(config)
        config = presets.resolve(config, spec)
        agent = agents.make(config, spec)
        weights.build(agent, spec)
        trainer = learner.Learner(config, agent, spec.action_repeats, allreduce.Alone())
        layout = wire.layout_of(spec, agent, config.unroll_length)
        queue = memory.TrajectoryQueue(layout, config.batch_size, config.batch_size)
        queue.insert(layout.empty(config.batch_size))
        sample = queue.sample(1.0)
        gradients = [tf.ones_like(v) for v in trainer.weights.variables]
        reduce = tf.function(lambda gradients=gradients: learners.reduce(gradients, tf.zeros([5])))
        cost = milliseconds(reduce, arguments.times)
        step = milliseconds(functools.partial(trainer.train, sample), max(5, arguments.times // 10))
        if learners.rank == 0:
            count = trainer.weights.count
            cells = [
                config.agent_name,
                f"{count:,}",
                f"{4e-6 * count:.1f}",
                f"{cost:.1f}",
                f"{step:.0f}",
                f"{cost / (cost + step):.0%}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
    learners.end()


if __name__ == "__main__":
    main()
