"""Refusals: each reason is counted, and nothing that a sender chooses fills memory or the log."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlma.core.refusal import MAX_SHOWN_CHARACTERS, REASONS, RefusedError, shown
from mlma.learning.message_parts import MAX_AGE_SECONDS, MIN_UNFINISHED, MessageParts
from mlma.monitoring import actor_statistics, refusals
from mlma.monitoring.actor_statistics import MAX_ACTORS, ActorStatistics
from mlma.monitoring.episode_statistics import MAX_NEW_EPISODES, EpisodeStatistics
from mlma.monitoring.metric_catalog import undocumented
from mlma.monitoring.phase_timer import ACTOR_PHASES
from mlma.monitoring.refusals import MAX_KINDS, MAX_LINES, REPEAT_SECONDS
from tests.support.samples import make_metrics


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_refusals_are_counted_by_reason_and_in_sum_under_documented_names() -> None:
    metrics = make_metrics()
    for reason in REASONS:
        metrics.refusals.add(RefusedError(reason, "text"), 1)
    metrics.refusals.add(MemoryError())
    metrics.refusals.add(OSError("no descriptors"))
    metrics.refusals.add(KeyError("task"))
    counts = metrics._faults
    assert counts["messages_refused"] == len(REASONS) + 3
    assert sum(counts[f"refused_{reason}"] for reason in REASONS) == counts["messages_refused"]
    assert (counts["refused_memory"], counts["refused_malformed"]) == (3, 2)
    assert undocumented(f"faults/{name}" for name in counts) == []


def test_a_kind_of_refusal_is_logged_once_a_minute_with_a_count(
    clock: Clock, log_lines: Callable[[], list[str]]
) -> None:
    metrics = make_metrics()
    for _ in range(50):
        metrics.refusals.add(RefusedError("header", "part=-1"), 3)
        metrics.refusals.add(RefusedError("header", "part=-1"), 4)
        metrics.refusals.add(RefusedError("parts", "too many"), 3)
    assert log_lines() == [
        "refused a message of actor 3: part=-1 (header)",
        "refused a message of actor 4: part=-1 (header)",
        "refused a message of actor 3: too many (parts)",
    ]
    clock.now += REPEAT_SECONDS
    metrics.refusals.add(RefusedError("header", "part=-2"), 3)
    assert log_lines()[3:] == ["refused a message of actor 3: part=-2 (header; 49 more since the last such line)"]


def test_thousands_of_invented_actors_fill_neither_log_nor_memory(
    clock: Clock, log_lines: Callable[[], list[str]]
) -> None:
    metrics = make_metrics()
    for actor in range(5 * MAX_KINDS):
        metrics.refusals.add(RefusedError("header", "text"), actor)
    assert len(log_lines()) == MAX_LINES
    assert len(metrics.refusals._kinds) <= MAX_KINDS + len(REASONS)
    clock.now += refusals.FORGET_SECONDS
    metrics.refusals.add(RefusedError("header", "text"), 10**5)
    assert "actor 100000" in log_lines()[-1]


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "\u202e", "x" * 10**6, "\x00" * 500, "\ud800"])
def test_text_from_outside_stays_on_one_short_line(text: str, log_lines: Callable[[], list[str]]) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= MAX_SHOWN_CHARACTERS
    make_metrics().refusals.add(RefusedError("handshake", text), what="")
    (line,) = log_lines()
    assert line.isprintable()
    assert len(line) < MAX_SHOWN_CHARACTERS + 100


def test_readable_text_is_shown_as_it_is() -> None:
    assert shown("Größe 3") == "Größe 3"
    assert shown({"a": [1, None]}) == "{'a': [1, None]}"
    assert shown(10**400, 40) == "1" + 36 * "0" + "..."


def test_a_learner_knows_a_limited_number_of_actors_and_always_has_room_for_its_own(clock: Clock) -> None:
    actors, phases = ActorStatistics(), dict.fromkeys(ACTOR_PHASES, 0.0)
    actors.expect(8)
    for actor in range(1000, 1000 + MAX_ACTORS):
        actors.record(actor, phases, 1)
        clock.now += 0.01
    for refused in (lambda: actors.set_host(77, "host"), lambda: actors.record(77, phases, 1)):
        with pytest.raises(RefusedError, match="the limit"):
            refused()
    for actor in range(8):
        actors.record(actor, phases, 1)
    assert len(actors.summarize(1.0)) == MAX_ACTORS + 8
    assert set(range(8)) <= actors.last_seen().keys()


def test_an_actor_that_was_silent_for_long_makes_room(clock: Clock) -> None:
    actors, phases = ActorStatistics(), dict.fromkeys(ACTOR_PHASES, 0.0)
    for actor in range(MAX_ACTORS):
        actors.record(actor, phases, 1)
    clock.now += actor_statistics.FORGET_SECONDS
    actors.record(5, phases, 1)
    actors.record(MAX_ACTORS, phases, 1)
    assert len(actors.last_seen()) == MAX_ACTORS
    assert {5, MAX_ACTORS} <= actors.last_seen().keys()


def test_episodes_between_two_reports_are_all_counted_but_not_all_kept() -> None:
    episodes = EpisodeStatistics()
    for _ in range(3):
        episodes.add([1.0] * MAX_NEW_EPISODES, [2] * MAX_NEW_EPISODES, [True] * MAX_NEW_EPISODES)
    part = episodes.drain()
    assert len(part["ended"]) == len(part["greedy"]) == MAX_NEW_EPISODES
    episodes.merge([part])
    assert episodes.row()["episodes"] == 3 * MAX_NEW_EPISODES
    assert episodes.drain() == {"ended": [], "greedy": [], "num_ended": 0}


def test_unfinished_messages_are_bounded_in_number_bytes_and_age(clock: Clock) -> None:
    parts = MessageParts(record_bytes=10_000_000, num_actors=1)
    assert parts.max_parts == 3
    piece = bytes(3_000_000)
    for actor in range(1000):
        assert parts.join(actor, 0, 3, piece, len(piece) + 100) == b""
        assert parts.held_bytes <= MIN_UNFINISHED * 11e6
    assert parts.join(999, 1, 3, piece, len(piece)) == b""
    assert len(parts.join(999, 2, 3, piece, len(piece))) == 9_000_000
    clock.now += MAX_AGE_SECONDS + 1
    parts.join(5, 0, 3, piece, len(piece))
    assert parts.held_bytes == len(piece), "the others were too old"


@pytest.mark.parametrize(
    "second", [(0, 2, 2, b"x"), (0, 1, 2, b"x"), (0, 1, 3, b""), (0, 1, 3, bytes(9_000_000)), (1, 1, 3, b"x")]
)
def test_a_part_that_does_not_follow_is_refused_with_what_came_before(second: tuple[int, int, int, bytes]) -> None:
    parts = MessageParts(record_bytes=10_000_000, num_actors=1)
    actor, part, count, payload = second
    parts.join(0, 0, 3, bytes(3_000_000), 3_000_000)
    with pytest.raises(RefusedError) as refusal:
        parts.join(actor, part, count, payload, len(payload))
    assert refusal.value.reason == "parts"
    assert parts.held_bytes == (0 if actor == 0 else 3_000_000)
