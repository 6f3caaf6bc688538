"""Builds the queue or the replay that an algorithm learns from."""

from __future__ import annotations

import logging
from pathlib import Path

from mlma.core.config import Config
from mlma.core.record_layout import RecordLayout
from mlma.core.types import Agent
from mlma.replay.base import TrajectoryBuffer
from mlma.replay.prioritized_replay import PrioritizedReplay
from mlma.replay.rate_limiter import RateLimiter
from mlma.replay.snapshot import ReplaySnapshot
from mlma.replay.trajectory_queue import TrajectoryQueue
from mlma.replay.trajectory_store import check_fits

logger = logging.getLogger(__name__)


def make_buffer(
    config: Config, agent: Agent, layout: RecordLayout, rank: int, learners_on_host: int
) -> tuple[TrajectoryBuffer, ReplaySnapshot]:
    """The buffer, and the snapshot that saves and restores it. ValueError if a replay does not fit into memory."""
    windows, settings, batch_size = agent.replay_windows, config.replay, config.learner.batch_size
    if windows is None:
        queue = TrajectoryQueue(layout, batch_size, config.learner.queue_capacity, config.learner.sample_reuse)
        return queue, ReplaySnapshot(None, None)
    check_fits(layout.spec, settings.replay_capacity, settings.replay_compression, learners_on_host)
    steps_per_sample = batch_size * (1 if windows.every_step else windows.length)
    replay = PrioritizedReplay(
        layout,
        windows,
        RateLimiter(settings.replay_ratio, settings.replay_min_fill, steps_per_sample),
        settings.replay_capacity,
        batch_size,
        (settings.priority_exponent, settings.importance_exponent),
        agent.sequence_priorities,
        config.run.seed + rank,
        settings.replay_compression,
    )
    path = Path(config.run.logdir) / "checkpoints" / f"replay-{rank}.bin" if settings.checkpoint_replay else None
    snapshot = ReplaySnapshot(replay, path)
    snapshot.restore()
    logger.info("replay of %s steps of %s bytes", f"{settings.replay_capacity:,}", f"{replay.bytes_per_step():,.0f}")
    return replay, snapshot
