"""How fast the replay is: `python -m benchmarks.replay`, an entry point like experiment.py. Prints Markdown.

For a replay that holds so many steps of 84x84 frames: insert and sample rates of one thread, the sample rate while another
thread inserts (by the clock; all else is in seconds of CPU), and the cost of an update of priorities; the sum tree alone over
its size; what compression costs and gains on frames of a real game; and how much of a learner's step is the sample. `--parts`
chooses.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mlma.utils.tensorflow_setup import import_tensorflow

PARTS = ("tree", "replay", "compression", "learner")
BESIDE = (0, 10_000, 50_000)  # steps/s that are inserted beside sampling; Ape-X's paper has 12,500 in all
CLOCKED = 5.0  # seconds of a measurement by the clock
BATCH = {"apex": 512, "r2d2": 64}


def seconds(call: Callable[[], Any], times: int) -> float:
    """Median of one call: seconds of CPU of all threads, which other work on the machine does not change much."""
    call()
    taken = []
    for _ in range(times):
        begun = time.process_time()
        call()
        taken.append(time.process_time() - begun)
    return statistics.median(taken)


def tree() -> None:
    print("\n| leaves | draw 512, ms | set 512, ms | per level of the tree, us: draw, set |\n|---|---|---|---|")
    for size in (10**3, 10**4, 10**5, 10**6, 10**7):
        draw, put = tree_of(size)
        levels = np.log2(size)
        print(
            f"| {size:,} | {1e3 * draw:.2f} | {1e3 * put:.2f} | {1e6 * draw / levels:.1f}, {1e6 * put / levels:.1f} |",
            flush=True,
        )


def tree_of(size: int) -> tuple[float, float]:
    """Seconds to draw and to set 512 leaves."""
    from mlma.replay.sum_tree import SumTree

    rng, one = np.random.default_rng(0), SumTree(size)
    one.set(np.arange(size), rng.random(size))
    leaves, values = rng.integers(size, size=512), rng.random(512)
    return seconds(lambda: one.draw(512, rng), 200), seconds(lambda: one.set(leaves, values), 200)


def prepared(algorithm: str, words: list[str]) -> tuple[Any, Any, Any, Any]:
    """(config, agent, layout, spec) of a Pong run."""
    from benchmarks.roofline import prepare
    from mlma.core.config import parse
    from mlma.core.record_layout import trajectory_layout

    config, spec, agent = prepare(parse([f"--algorithm={algorithm}", *words]))
    return config, agent, trajectory_layout(spec, agent, config.learner.unroll_length), spec


def unpaced(layout: Any, windows: Any, config: Any, steps: int, batch: int) -> Any:
    """A replay for which nobody waits."""
    from mlma.replay.prioritized_replay import PrioritizedReplay
    from mlma.replay.rate_limiter import RateLimiter

    pace = RateLimiter(1e-9, 0, 0, lambda line: None)
    pace.inserted(1)
    exponents = config.replay.priority_exponent, config.replay.importance_exponent
    return PrioritizedReplay(
        layout, windows, pace, steps, batch, exponents, config.replay.priority_eta, 1, config.replay.replay_compression
    )


class Source:
    """Records of 32 environments in one endless game, with frames of noise."""

    ENVS = 32

    def __init__(self, layout: Any) -> None:
        rng = np.random.default_rng(0)
        self._records = layout.empty(self.ENVS)
        self._view = layout.view(self._records)
        self._view.timesteps.observation[:] = rng.integers(256, size=self._view.timesteps.observation.shape)
        self._view.env_stream_id[:] = np.arange(self.ENVS)
        self._view.initial_priorities[:] = rng.random(self._view.initial_priorities.shape)

    def __call__(self) -> Any:
        self._view.sequence_number[:] += 1
        return self._records


def replay(algorithms: list[str], sizes: list[int]) -> None:
    heads = ["algorithm", "steps held", "bytes per step", "inserts, steps/s", "windows/s", "ms per sample", "update, ms"]
    heads += [f"windows/s by the clock, {rate:,} inserted/s" for rate in BESIDE]
    print(f"\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for algorithm in algorithms:
        for size in sizes:
            print(f"| {algorithm} | {size:,} | {replay_of(algorithm, BATCH[algorithm], size)} |", flush=True)


def replay_of(algorithm: str, batch: int, size: int) -> str:
    """The cells of a row."""
    config, agent, layout, _ = prepared(algorithm, ["--level_name=PongNoFrameskip-v4"])
    memory, source = unpaced(layout, agent.replay_windows, config, size, batch), Source(layout)
    per_insert = Source.ENVS * config.learner.unroll_length
    for _ in range(-(-int(1.1 * size) // per_insert)):
        memory.put(source())
    rate = per_insert / seconds(lambda: memory.put(source()), 20)
    keys, errors = memory.sample(1.0).keys, np.random.default_rng(1).random(batch)
    alone = seconds(lambda: memory.sample(1.0), 20)
    update = seconds(lambda: memory.update_priorities(keys, errors), 100)
    cells = [f"{memory.bytes_per_step():,.0f}", f"{rate:,.0f}", f"{batch / alone:,.0f}", f"{1e3 * alone:.1f}"]
    cells.append(f"{1e3 * update:.2f}")
    for rate in BESIDE:
        with inserting(lambda: memory.put(source()), rate / per_insert):
            begun, samples = time.perf_counter(), 0
            while time.perf_counter() - begun < CLOCKED:
                memory.sample(1.0)
                samples += 1
            cells.append(f"{batch * samples / (time.perf_counter() - begun):,.0f}")
    return " | ".join(cells)


@contextlib.contextmanager
def inserting(insert: Callable[[], Any], per_second: float) -> Iterator[None]:
    """Another thread does so meanwhile."""
    stop = threading.Event()

    def go_on() -> None:
        due = time.perf_counter()
        while not stop.wait(max(0.0, due - time.perf_counter())):
            insert()
            due += 1 / per_second

    thread = threading.Thread(target=go_on, daemon=True)
    if per_second:
        thread.start()
    yield
    stop.set()
    if per_second:
        thread.join()


def compression(level: str) -> None:
    """With frames of a game that is played at random."""
    from mlma.envs.registry import make_env
    from mlma.replay.trajectory_store import CompressedFrames, PlainFrames

    config, _, _, spec = prepared("apex", [f"--level_name={level}"])
    env, rng = make_env(level, 4, 1, config.environment), np.random.default_rng(0)
    env.reset()
    frames = np.concatenate([env.step(rng.integers(spec.num_actions, size=4)).observation for _ in range(500)])
    env.close()
    print(f"\n{level}, {len(frames):,} frames\n\n| frames | bytes each | write, us each | read, us each |\n|---|---|---|---|")
    for name, kind in (("plain", PlainFrames), ("zlib, level 1", CompressedFrames)):
        kept = kind(len(frames), spec.observation.shape, spec.observation.dtype)
        print(f"| {name} | {frames_of(kept, frames)} |", flush=True)


def frames_of(kept: Any, frames: Any) -> str:
    count = len(frames)
    places, mixed = np.arange(count).reshape(50, -1), np.random.default_rng(0).permutation(count)
    write = seconds(lambda: kept.write(places, frames.reshape(*places.shape, *frames.shape[1:])), 3)
    read = seconds(lambda: kept.read(mixed), 3)
    return f"{kept.bytes_each(count):,.0f} | {1e6 * write / count:.1f} | {1e6 * read / count:.1f}"


def learner(algorithm: str, words: list[str]) -> None:
    """The learner's own loop: how much of a step is the sample."""
    from mlma.distributed.allreduce import SingleProcess
    from mlma.learning.learner import Learner

    config, agent, layout, spec = prepared(algorithm, words)
    memory, source = unpaced(layout, agent.replay_windows, config, 20_000, config.learner.batch_size), Source(layout)
    while memory.fill < 1:
        memory.put(source())
    trainer = Learner(config, agent, spec.action_repeats, SingleProcess())
    sample = memory.sample(1.0)
    cut = seconds(lambda: memory.sample(1.0), 10)
    train = seconds(lambda: trainer.train(sample), 10)
    update = seconds(lambda: memory.update_priorities(sample.keys, trainer.priorities), 10)
    whole = cut + train + update
    cells = [algorithm, config.run.agent_name, f"{config.learner.batch_size}", f"{1e3 * cut:.1f}", f"{1e3 * train:.1f}"]
    print(f"| {' | '.join(cells)} | {1e3 * update:.2f} | {(cut + update) / whole:.0%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure, with commas between")
    parser.add_argument("--algorithms", default="apex,r2d2", help="whose replay")
    parser.add_argument("--sizes", default="1e5,1e6", help="steps that the replay holds")
    parser.add_argument("--level_name", default="PongNoFrameskip-v4", help="whose frames are compressed")
    arguments = parser.parse_args()
    import_tensorflow()
    from mlma.utils.child_process import available_cores
    from mlma.utils.tensorflow_setup import set_tensorflow_threads

    set_tensorflow_threads(available_cores())
    parts = arguments.parts.split(",")
    if "tree" in parts:
        tree()
    if "replay" in parts:
        replay(arguments.algorithms.split(","), [int(float(size)) for size in arguments.sizes.split(",")])
    if "compression" in parts:
        compression(arguments.level_name)
    if "learner" in parts:
        print("\n| algorithm | network | batch | sample, ms | train step, ms | update of priorities, ms | replay's share |")
        print("|---|---|---|---|---|---|---|")
        for algorithm, *words in (
            ("apex", "--level_name=PongNoFrameskip-v4"),
            ("apex", "--level_name=PongNoFrameskip-v4", "--agent_name=ConvNetAgent", "--batch_size=512"),
            ("r2d2", "--level_name=PongNoFrameskip-v4"),
            ("apex", "--level_name=catch"),
            ("r2d2", "--level_name=tmaze"),
        ):
            learner(algorithm, words)


if __name__ == "__main__":
    main()
