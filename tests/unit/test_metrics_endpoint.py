"""/metrics of a worker, scraped over HTTP and read by the parser of Prometheus' own client."""

from __future__ import annotations

import math
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlma.core.config import Config, parse
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.metrics_endpoint import CONTENT_TYPE, MetricsEndpoint, exposition
from mlma.roles.learner_telemetry import serve_metrics
from tests.support.runs import free_port
from tests.support.samples import make_metrics

Samples = dict[tuple[str, ...], float]  # (name, values of its labels, ...) -> value


def read(text: str) -> Samples:
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation and family.type in ("gauge", "counter") for family in families)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def scrape(port: int, path: str = "/metrics") -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        return read(answer.read().decode())


@pytest.fixture
def serving() -> Iterator[tuple[int, Heartbeat, MetricsEndpoint]]:
    port, heartbeat = free_port(), Heartbeat("", "learner-0")
    endpoint = MetricsEndpoint(port, heartbeat)
    yield port, heartbeat, endpoint
    endpoint.close(True)


def test_a_scrape_has_the_time_of_the_last_step(serving: tuple[int, Heartbeat, MetricsEndpoint]) -> None:
    port, heartbeat, endpoint = serving
    before = time.time()
    assert ("mlma_last_step_time_seconds", "learner-0") not in scrape(port), "there was no step yet"
    heartbeat.progress(1234)
    found = scrape(port)
    assert before - 1 < found["mlma_last_step_time_seconds", "learner-0"] < time.time() + 1
    assert found["mlma_frames_total", "learner-0"] == 1234
    assert found["mlma_waiting", "learner-0", ""] == 0
    heartbeat.waiting_for("a sample")
    endpoint.on_report({"frames": 5000, "return/mean": -2.5, "lag/mean": math.nan})
    found = scrape(port)
    assert found["mlma_waiting", "learner-0", "a sample"] == 1
    assert found["mlma_report", "learner-0", "return/mean"] == -2.5
    assert ("mlma_report", "learner-0", "lag/mean") not in found
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scrape(port, "/")


def test_it_is_served_at_loopback_alone(serving: tuple[int, Heartbeat, MetricsEndpoint]) -> None:
    server = serving[2]._server
    assert server and server.server_address[0] == "127.0.0.1"


def test_a_client_that_sends_nothing_does_not_keep_the_next_one_waiting_for_long(
    serving: tuple[int, Heartbeat, MetricsEndpoint],
) -> None:
    with socket.create_connection(("127.0.0.1", serving[0])):
        assert scrape(serving[0])


def test_names_of_any_kind_are_escaped() -> None:
    record = Heartbeat("", "learner-0").record()
    name = 'level_return/a"b\\c\nd'
    assert read(exposition(record, {name: 1.0}))["mlma_report", "learner-0", name] == 1.0


def test_a_port_that_is_taken_is_logged_and_ends_nothing(log_lines: Callable[[], list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        MetricsEndpoint(port, Heartbeat("", "actor-0")).close(True)
    MetricsEndpoint(65_536, Heartbeat("", "actor-0")).close(True)
    assert log_lines() == [
        f"no /metrics at port {port}: Address already in use; training continues",
        "no /metrics at port 65536: no such port; training continues",
    ]


def test_it_is_off_unless_asked_for_and_only_the_first_learner_listens_to_reports() -> None:
    assert parse([]).reports.metrics_port == 0
    heartbeat, metrics = Heartbeat("", "learner-0"), make_metrics()
    serve_metrics(Config(), heartbeat, metrics, True)
    assert metrics._listeners == []
    serve_metrics(Config.from_flags(metrics_port=free_port()), heartbeat, metrics, False)
    assert metrics._listeners == []
