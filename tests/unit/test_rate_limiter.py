"""The rate limiter: the minimum fill, and who waits to keep the replay ratio."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from mlma.replay.prioritized_replay import PrioritizedReplay
from mlma.replay.rate_limiter import RateLimiter
from tests.support.replays import STEPS, endless_episode, make_replay, sample_from


def test_samples_wait_for_the_fill_and_then_for_their_ratio(log_lines: Callable[[], list[str]]) -> None:
    limiter = RateLimiter(2.0, 100, 50)
    limiter.inserted(99)
    assert not limiter.wait_to_sample(0.01)
    limiter.inserted(1)
    assert log_lines() == ["replay holds 100 steps; learning begins at 100"]
    assert not limiter.wait_to_sample(0.01), "the minimum fill does not count for the ratio"
    limiter.inserted(24)
    assert not limiter.wait_to_sample(0.01)
    limiter.inserted(1)
    assert limiter.wait_to_sample(0.01)
    limiter.sampled()
    assert not limiter.wait_to_sample(0.01)
    assert limiter.ratio == 2.0


def test_actors_wait_for_a_slow_learner_until_it_catches_up_or_ends() -> None:
    limiter = RateLimiter(1.0, 0, 10)
    limiter.inserted(1)
    limiter.inserted(30)
    waiting = threading.Thread(target=limiter.wait_to_insert, daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    limiter.sampled()
    limiter.sampled()
    waiting.join(5)
    assert not waiting.is_alive()
    limiter.inserted(30)
    again = threading.Thread(target=limiter.wait_to_insert, daemon=True)
    again.start()
    limiter.close()
    again.join(5)
    assert not again.is_alive()
    assert not limiter.wait_to_insert()


@pytest.mark.parametrize("ratio", [0.5, 4.0])
def test_the_ratio_is_kept_whoever_is_faster(ratio: float) -> None:
    for slow in ("learner", "actors"):
        limiter = RateLimiter(ratio, 20, 10)
        replay = make_replay(STEPS, capacity=500, batch_size=10, rate_limiter=limiter)
        done = threading.Event()

        def insert(replay: PrioritizedReplay = replay, slow: str = slow, done: threading.Event = done) -> None:
            for start in range(0, 400, 2):
                replay.insert(endless_episode(2, start=start))
                if done.wait(0.002 if slow == "actors" else 0):
                    return

        threading.Thread(target=insert, daemon=True).start()
        for _ in range(60):
            sample_from(replay)
            time.sleep(0.004 if slow == "learner" else 0)
        done.set()
        replay.close()
        assert limiter.ratio == pytest.approx(ratio, rel=0.3)
