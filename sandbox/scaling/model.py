"""Predicts how training scales with the number of learners, from measured numbers.

    python sandbox/scaling/model.py --compute_ms=47 --mb=2.7 --mbit=1000 --latency_ms=0.1

A step of N learners takes the time to compute and apply a gradient, plus one allreduce that overlaps with nothing. Open
MPI sends a message of megabytes around a ring, as 2 (N - 1) consecutive messages of 1/N of the bytes:

    step(N) = compute * slowest(N) + 2 (N - 1) (latency + bytes / N / bandwidth) + copy * bytes

`slowest(N)` is the expected time of the slowest of N learners relative to one, if step times are normal with the
relative standard deviation `--spread`. A learner receives at most `--actor_rate` times `--actors` agent steps per
second. docs/benchmarks/scaling.md compares the model with measurements.
"""

from __future__ import annotations

import argparse

# Expected maximum of N independent standard normal numbers.
LARGEST = {1: 0.0, 2: 0.564, 3: 0.846, 4: 1.029, 5: 1.163, 6: 1.267, 7: 1.352, 8: 1.424, 16: 1.766, 32: 2.07, 64: 2.344}


def milliseconds(
    learners: int, compute_ms: float, mb: float, mbit: float, latency_ms: float, copy_ms: float, spread: float = 0.0
) -> float:
    """Milliseconds of one step. `copy_ms` is per MB: into one vector, through Horovod and back."""
    compute = compute_ms * (1 + spread * LARGEST[learners])
    if learners == 1:
        return compute
    message = latency_ms + mb * 8e3 / learners / mbit  # MB -> ms
    return compute + 2 * (learners - 1) * message + copy_ms * mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compute_ms", type=float, required=True, help="time of a train step of one learner")
    parser.add_argument("--mb", type=float, required=True, help="size of the gradient in MB; half with fp16")
    parser.add_argument("--mbit", type=float, default=1000, help="bandwidth of each host in Mbit/s (1000)")
    parser.add_argument("--latency_ms", type=float, default=0.1, help="latency from one host to the next (0.1)")
    parser.add_argument("--copy_ms", type=float, default=0.7, help="time to copy one MB (0.7, measured on 2 cores)")
    parser.add_argument("--spread", type=float, default=0.0, help="relative standard deviation of a step (0)")
    parser.add_argument("--samples", type=float, default=256, help="agent steps per sample (256)")
    parser.add_argument("--actors", type=int, default=45, help="actors per learner (45)")
    parser.add_argument("--actor_rate", type=float, default=float("inf"), help="agent steps/s of one actor (unlimited)")
    a = parser.parse_args()
    print("| learners | step, ms | agent steps/s | efficiency | allreduce, share of step |")
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
