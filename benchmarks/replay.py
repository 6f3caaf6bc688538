"""Measures the speed of the replay: `python -m benchmarks.replay`. Prints Markdown; `--parts` selects tables.

* tree: drawing from and writing to the sum tree alone, by size;
* replay: for a replay that holds this many steps of 84x84 frames, the insert and sample rates of one thread, the
sample rate
  while another thread inserts, and the cost of a priority update;
* compression: what it costs and saves on frames of a real level;
* learner: the share of the replay in a learner step.

Times are seconds of CPU, since other work on the machine hardly changes these, unless a column says wall-clock.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.common import markdown_head, markdown_row, median_seconds, prepare
from mlma.core.config import Config, parse
from mlma.core.record_layout import RecordLayout, trajectory_layout
from mlma.core.types import Agent, EnvSpec
from mlma.utils.child_process import available_cores
from mlma.utils.tensorflow_setup import import_tensorflow, set_tensorflow_threads

PARTS = ("tree", "replay", "compression", "learner")
INSERT_RATES = (0, 10_000, 50_000)  # steps/s inserted while sampling; the Ape-X paper has 12,500 in total
WALL_CLOCK_SECONDS = 5.0  # length of a measurement by the wall clock
BATCH_SIZES = {"apex": 512, "r2d2": 64}
PONG = "--level_name=PongNoFrameskip-v4"
LEARNERS = (  # algorithm and flags
    ("apex", PONG),
    ("apex", PONG, "--agent_name=ConvNetAgent", "--batch_size=512"),
    ("r2d2", PONG),
    ("apex", "--level_name=catch"),
    ("r2d2", "--level_name=tmaze"),
)

cpu_seconds = functools.partial(median_seconds, clock=time.process_time)


def measure_tree() -> None:
    """Prints the table of the sum tree."""
    print("\n" + markdown_head(("leaves", "draw 512, ms", "set 512, ms", "per level of the tree, us: draw, set")))
    for size in (10**3, 10**4, 10**5, 10**6, 10**7):
        draw, write = _tree_seconds(size)
        levels = np.log2(size)
        per_level = f"{1e6 * draw / levels:.1f}, {1e6 * write / levels:.1f}"
        print(markdown_row((f"{size:,}", f"{1e3 * draw:.2f}", f"{1e3 * write:.2f}", per_level)), flush=True)


def _tree_seconds(size: int) -> tuple[float, float]:
    """Seconds to draw and to set 512 leaves."""
    from mlma.replay.sum_tree import SumTree

    rng, tree = np.random.default_rng(0), SumTree(size)
    tree.set(np.arange(size), rng.random(size))
    leaves, values = rng.integers(size, size=512), rng.random(512)
    return cpu_seconds(lambda: tree.draw(512, rng), 200), cpu_seconds(lambda: tree.set(leaves, values), 200)


def prepare_run(algorithm: str, flags: list[str]) -> tuple[Config, Agent, RecordLayout, EnvSpec]:
    """(resolved configuration, agent, layout of its trajectories, spec)."""
    config, spec, agent = prepare(parse([f"--algorithm={algorithm}", *flags]))
    return config, agent, trajectory_layout(spec, agent, config.learner.unroll_length), spec


def make_unlimited_replay(layout: RecordLayout, agent: Agent, config: Config, capacity: int, batch_size: int) -> Any:
    """A replay without rate limits."""
    from mlma.replay.prioritized_replay import PrioritizedReplay
    from mlma.replay.rate_limiter import RateLimiter

    assert agent.replay_windows is not None
    limiter = RateLimiter(1e-9, 0, 0)
    limiter.inserted(1)
    windows, priorities, compress = agent.replay_windows, agent.sequence_priorities, config.replay.replay_compression
    exponents = config.replay.priority_exponent, config.replay.importance_exponent
    return PrioritizedReplay(layout, windows, limiter, capacity, batch_size, exponents, priorities, 1, compress)


class RecordSource:
    """Consecutive records of 32 environments in one endless episode, with frames of noise."""

    NUM_ENVS = 32

    def __init__(self, layout: RecordLayout) -> None:
        rng = np.random.default_rng(0)
        self._records = layout.empty(self.NUM_ENVS)
        self._view = layout.view(self._records)
        self._view.timesteps.observation[:] = rng.integers(256, size=self._view.timesteps.observation.shape)
        self._view.env_stream_id[:] = np.arange(self.NUM_ENVS)
        self._view.initial_priorities[:] = rng.random(self._view.initial_priorities.shape)

    def __call__(self) -> Any:
        """The next records; the same memory each time."""
        self._view.sequence_number[:] += 1
        return self._records


def measure_replay(algorithms: list[str], sizes: list[int]) -> None:
    """Prints the table of replays."""
    columns = ["algorithm", "steps held", "bytes per step", "inserts, steps/s", "windows/s", "sample, ms", "update, ms"]
    columns += [f"windows/s, wall-clock, {rate:,} inserted/s" for rate in INSERT_RATES]
    print("\n" + markdown_head(columns))
    for algorithm in algorithms:
        for size in sizes:
            cells = _replay_cells(algorithm, BATCH_SIZES[algorithm], size)
            print(markdown_row((algorithm, f"{size:,}", *cells)), flush=True)


def _replay_cells(algorithm: str, batch_size: int, size: int) -> list[str]:
    config, agent, layout, _ = prepare_run(algorithm, [PONG])
    replay, source = make_unlimited_replay(layout, agent, config, size, batch_size), RecordSource(layout)
    steps_per_insert = RecordSource.NUM_ENVS * config.learner.unroll_length
    for _ in range(-(-int(1.1 * size) // steps_per_insert)):
        replay.put(source())
    insert_rate = steps_per_insert / cpu_seconds(lambda: replay.put(source()), 20)
    keys, td_errors = replay.sample(1.0).keys, np.random.default_rng(1).random(batch_size)
    sample = cpu_seconds(lambda: replay.sample(1.0), 20)
    update = cpu_seconds(lambda: replay.update_priorities(keys, td_errors), 100)
    cells = [f"{replay.bytes_per_step():,.0f}", f"{insert_rate:,.0f}", f"{batch_size / sample:,.0f}"]
    cells += [f"{1e3 * sample:.1f}", f"{1e3 * update:.2f}"]
    for rate in INSERT_RATES:
        with inserting(lambda: replay.put(source()), rate / steps_per_insert):
            began, samples = time.perf_counter(), 0
            while time.perf_counter() - began < WALL_CLOCK_SECONDS:
                replay.sample(1.0)
                samples += 1
            cells.append(f"{batch_size * samples / (time.perf_counter() - began):,.0f}")
    return cells


@contextlib.contextmanager
def inserting(insert: Callable[[], Any], per_second: float) -> Iterator[None]:
    """Calls `insert` at this rate from another thread; not at all for a rate of 0."""
    stop = threading.Event()

    def run() -> None:
        due = time.perf_counter()
        while not stop.wait(max(0.0, due - time.perf_counter())):
            insert()
            due += 1 / per_second

    thread = threading.Thread(target=run, daemon=True)
    if per_second:
        thread.start()
    yield
    stop.set()
    if per_second:
        thread.join()


def measure_compression(level: str) -> None:
    """Prints the table of compression, on frames of an agent that acts at random."""
    from mlma.envs.registry import make_env
    from mlma.replay.trajectory_store import CompressedFrames, PlainFrames

    config, _, _, spec = prepare_run("apex", [f"--level_name={level}"])
    env, rng = make_env(level, 4, 1, config.environment), np.random.default_rng(0)
    env.reset()
    frames = np.concatenate([env.step(rng.integers(spec.num_actions, size=4)).observation for _ in range(500)])
    env.close()
    print(f"\n{level}, {len(frames):,} frames\n")
    print(markdown_head(("frames", "bytes each", "write, us each", "read, us each")))
    for name, storage_type in (("plain", PlainFrames), ("zlib, level 1", CompressedFrames)):
        storage = storage_type(len(frames), spec.observation.shape, spec.observation.dtype)
        print(markdown_row((name, *_storage_cells(storage, frames))), flush=True)


def _storage_cells(storage: Any, frames: Any) -> list[str]:
    count = len(frames)
    indices, shuffled = np.arange(count).reshape(50, -1), np.random.default_rng(0).permutation(count)
    write = cpu_seconds(lambda: storage.write(indices, frames.reshape(*indices.shape, *frames.shape[1:])), 3)
    read = cpu_seconds(lambda: storage.read(shuffled), 3)
    return [f"{storage.bytes_each(count):,.0f}", f"{1e6 * write / count:.1f}", f"{1e6 * read / count:.1f}"]


def measure_learner(algorithm: str, flags: list[str]) -> None:
    """Prints a row: the time of a sample, an update and a priority update in the learner's loop."""
    from mlma.distributed.allreduce import SingleProcess
    from mlma.learning.learner import Learner

    config, agent, layout, spec = prepare_run(algorithm, flags)
    replay = make_unlimited_replay(layout, agent, config, 20_000, config.learner.batch_size)
    source = RecordSource(layout)
    while replay.fill < 1:
        replay.put(source())
    learner = Learner(config, agent, spec.action_repeats, SingleProcess())
    sample = replay.sample(1.0)
    sampling = cpu_seconds(lambda: replay.sample(1.0), 10)
    training = cpu_seconds(lambda: learner.update(sample), 10)
    updating = cpu_seconds(lambda: replay.update_priorities(sample.keys, learner.priorities), 10)
    share = (sampling + updating) / (sampling + training + updating)
    cells = [algorithm, config.run.agent_name, f"{config.learner.batch_size}", f"{1e3 * sampling:.1f}"]
    cells += [f"{1e3 * training:.1f}", f"{1e3 * updating:.2f}", f"{share:.0%}"]
    print(markdown_row(cells), flush=True)


def main() -> None:
    """Prints the selected tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="tables to print, separated by commas")
    parser.add_argument("--algorithms", default="apex,r2d2", help="algorithms whose replay is measured")
    parser.add_argument("--sizes", default="1e5,1e6", help="steps that the replay holds")
    parser.add_argument("--level_name", default="PongNoFrameskip-v4", help="level whose frames are compressed")
    arguments = parser.parse_args()
    import_tensorflow()
    set_tensorflow_threads(available_cores())
    parts = arguments.parts.split(",")
    if "tree" in parts:
        measure_tree()
    if "replay" in parts:
        measure_replay(arguments.algorithms.split(","), [int(float(size)) for size in arguments.sizes.split(",")])
    if "compression" in parts:
        measure_compression(arguments.level_name)
    if "learner" in parts:
        columns = ("algorithm", "network", "batch", "sample, ms", "update, ms", "priority update, ms", "replay's share")
        print("\n" + markdown_head(columns))
        for algorithm, *flags in LEARNERS:
            measure_learner(algorithm, flags)


if __name__ == "__main__":
    main()
