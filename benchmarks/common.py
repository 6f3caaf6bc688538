"""What several benchmarks share: agents and learners as a run builds them, medians of timed calls, rows of Markdown.

TensorFlow is imported inside the functions, so that a wrong flag is answered at once.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlma.core.config import Config
from mlma.core.presets.resolve import resolve
from mlma.core.types import Agent, EnvSpec, Sample
from mlma.utils.child_process import available_cores
from mlma.utils.code_layout import ROOT
from mlma.utils.tensorflow_setup import import_tensorflow, set_tensorflow_threads

__all__ = [
    "ROOT",
    "learner_and_sample",
    "markdown_head",
    "markdown_row",
    "median_seconds",
    "prepare",
    "prepare_process",
    "process_seconds",
    "thread_seconds",
]

if TYPE_CHECKING:
    from mlma.distributed.allreduce import Allreduce
    from mlma.learning.learner import Learner


def prepare(config: Config) -> tuple[Config, EnvSpec, Agent]:
    """(resolved configuration, spec, agent with variables)."""
    from agents import make_agent
    from mlma.core.flat_weights import build_variables
    from mlma.envs.registry import env_spec

    spec = env_spec(config.environment)
    config = resolve(config, spec, available_cores())
    agent = make_agent(config, spec)
    build_variables(agent, spec)
    return config, spec, agent


def prepare_process(config: Config, num_threads: int) -> tuple[Config, EnvSpec, Agent]:
    """Sets up TensorFlow in this process, then as `prepare`."""
    import_tensorflow()
    set_tensorflow_threads(num_threads)
    return prepare(config)


def learner_and_sample(config: Config, allreduce: Allreduce) -> tuple[Learner, Sample]:
    """A learner as a run has it, and a sample of zeros."""
    from mlma.core.record_layout import trajectory_layout
    from mlma.learning.learner import Learner
    from mlma.replay.trajectory_queue import TrajectoryQueue

    config, spec, agent = prepare(config)
    layout = trajectory_layout(spec, agent, config.learner.unroll_length)
    queue = TrajectoryQueue(layout, config.learner.batch_size, config.learner.batch_size)
    queue.insert(layout.empty(config.learner.batch_size))
    sample = queue.sample(1.0)
    assert sample is not None
    return Learner(config, agent, spec.action_repeats, allreduce), sample


def median_seconds(
    call: Callable[[], Any], times: int, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median duration of `times` calls, after `warm_up` calls that are not measured."""
    for _ in range(warm_up):
        call()
    durations = []
    for _ in range(times):
        began = clock()
        call()
        durations.append(clock() - began)
    return statistics.median(durations)


def process_seconds(pid: int) -> float:
    """Processor time of a process with its descendants."""
    children = " ".join(each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return _ticks(Path(f"/proc/{pid}/stat")) + sum(process_seconds(int(child)) for child in children)


def thread_seconds(name: str) -> float:
    """Processor time of the threads of this process with a name."""
    tasks = Path("/proc/self/task").iterdir()
    return sum(_ticks(task / "stat") for task in tasks if (task / "comm").read_text().strip() == name)


def _ticks(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def markdown_row(cells: Iterable[object]) -> str:
    """One row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def markdown_head(columns: Iterable[str]) -> str:
    """The first two lines of a table."""
    columns = list(columns)
    return f"{markdown_row(columns)}\n|{'---|' * len(columns)}"
