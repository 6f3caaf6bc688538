"""How many learners pay: a model of one learner step, to be fed with measured numbers.

    python sandbox/scaling/model.py --compute_ms=47 --mb=2.7 --mbit=1000 --latency_ms=0.1

A step of N learners takes the time to compute a gradient and to apply it, plus one allreduce that nothing hides. Open MPI sends
a message of megabytes around a ring: 2 (N - 1) messages, one after the other, of one N-th of the bytes:

    step(N) = compute * slowest(N) + 2 (N - 1) (latency + bytes / N / bandwidth) + copy * bytes

`slowest(N)` is how much longer the slowest of N learners takes than one does, if each step varies by a standard deviation of
`--spread` (of normal times). Actors and network carry the trajectories besides: `--actor_rate` times `--actors` agent steps per
second is the most that a learner gets. docs/multi_learner.md compares it with measurements.
"""

from __future__ import annotations

import argparse

# Expected maximum of N independent standard normal numbers.
LARGEST = {1: 0.0, 2: 0.564, 3: 0.846, 4: 1.029, 5: 1.163, 6: 1.267, 7: 1.352, 8: 1.424, 16: 1.766, 32: 2.07, 64: 2.344}


def milliseconds(
    learners: int, compute_ms: float, mb: float, mbit: float, latency_ms: float, copy_ms: float, spread: float = 0.0
) -> float:
    """Of one step. `copy_ms` is for each MB: into one vector, through Horovod and back."""
    compute = compute_ms * (1 + spread * LARGEST[learners])
    if learners == 1:
        return compute
    message = latency_ms + mb * 8e3 / learners / mbit  # MB -> ms
    return compute + 2 * (learners - 1) * message + copy_ms * mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compute_ms", type=float, required=True, help="a train step of one learner")
    parser.add_argument("--mb", type=float, required=True, help="bytes of the gradient in millions; half with fp16")
    parser.add_argument("--mbit", type=float, default=1000, help="bandwidth of each host (1000)")
    parser.add_argument("--latency_ms", type=float, default=0.1, help="from one host to the next (0.1)")
    parser.add_argument("--copy_ms", type=float, default=0.7, help="for each MB (0.7, measured on 2 cores)")
    parser.add_argument("--spread", type=float, default=0.0, help="standard deviation of a step, as its share (0)")
    parser.add_argument("--samples", type=float, default=256, help="agent steps in a sample (256)")
    parser.add_argument("--actors", type=int, default=45, help="of each learner (45)")
    parser.add_argument("--actor_rate", type=float, default=float("inf"), help="agent steps/s of one actor (no limit)")
    a = parser.parse_args()
    print("| learners | step, ms | agent steps/s | efficiency | allreduce, share of the step |")
    print("|---|---|---|---|---|")
    first = 0.0
    for n in LARGEST:
        step = milliseconds(n, a.compute_ms, a.mb, a.mbit, a.latency_ms, a.copy_ms, a.spread)
        rate = n * min(1000 * a.samples / step, a.actors * a.actor_rate)
        first = first or rate
        allreduce = step - a.compute_ms * (1 + a.spread * LARGEST[n])
        print(f"| {n} | {step:.1f} | {rate:,.0f} | {rate / n / first:.0%} | {allreduce / step:.0%} |")


if __name__ == "__main__":
    main()
