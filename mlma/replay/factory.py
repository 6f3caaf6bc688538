"""Builds the queue or the replay that an algorithm learns from."""

from __future__ import annotations

from pathlib import Path

from mlma.core.config.config import Config
from mlma.core.record_layout import RecordLayout
from mlma.core.types import Agent
from mlma.monitoring.run_log import Say
from mlma.replay.base import TrajectoryBuffer
from mlma.replay.prioritized_replay import PrioritizedReplay
from mlma.replay.rate_limiter import RateLimiter
from mlma.replay.snapshot import ReplaySnapshot
from mlma.replay.trajectory_queue import TrajectoryQueue


def make_buffer(
    config: Config, agent: Agent, layout: RecordLayout, rank: int, say: Say
) -> tuple[TrajectoryBuffer, ReplaySnapshot]:
    """The memory that this algorithm learns from, and what becomes of it when the run is saved and resumed."""
    windows = agent.windows
    if windows is None:
        return TrajectoryQueue(layout, config.batch_size, config.queue_capacity, config.sample_reuse), ReplaySnapshot(
            None, None, say
        )
    learned = config.batch_size * (1 if windows.every_step else windows.length)
    replay = PrioritizedReplay(
        layout,
        windows,
        RateLimiter(config.replay_ratio, config.replay_min_fill, learned, say),
        config.replay_capacity,
        config.batch_size,
        (config.priority_exponent, config.importance_exponent),
        config.priority_eta,
        config.seed + rank,
        config.replay_compression,
    )
    path = Path(config.logdir) / "checkpoints" / f"replay-{rank}.bin" if config.checkpoint_replay else None
    shard = ReplaySnapshot(replay, path, say)
    shard.restore()
    say(f"replay of {config.replay_capacity:,} steps of {replay.bytes_per_step():,.0f} bytes")
    return replay, shard
