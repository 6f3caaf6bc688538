"""`/metrics` of a worker for Prometheus (`--metrics_port`), at loopback only: when it last made progress, and how far.

The text is Prometheus' exposition format 0.0.4. It is made when it is asked for, from what the heartbeat and the last
report hold anyway, so training does nothing for it. Not here: the heartbeat (mlma/monitoring/heartbeat.py).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from mlma.monitoring.episode_statistics import Row
from mlma.monitoring.heartbeat import Heartbeat

logger = logging.getLogger(__name__)

LOOPBACK, PATH = "127.0.0.1", "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_SECONDS = 5.0  # for a client to send its request and to take the answer
FIRST_ACTOR = 100  # what actor 0 adds to the port


class MetricsEndpoint:
    """Serves one worker. Also a report listener, for the learner that reports. One that cannot is named in the log."""

    name = "the metrics endpoint"

    def __init__(self, port: int, heartbeat: Heartbeat) -> None:
        """Without a port it does nothing."""
        self._heartbeat = heartbeat
        self._row: Row = {}
        self._server: HTTPServer | None = None
        if port:
            self._start(port)

    def _start(self, port: int) -> None:
        try:
            self._server = HTTPServer((LOOPBACK, port), _handler(self))
        except (OSError, OverflowError) as problem:  # another process has the port, or there is no such port
            reason = getattr(problem, "strerror", None) or "no such port"
            logger.warning("no %s at port %d: %s; training continues", PATH, port, reason)
            return
        logger.info("metrics for Prometheus at http://%s:%d%s", LOOPBACK, port, PATH)
        threading.Thread(target=self._server.serve_forever, name="metrics-endpoint", daemon=True).start()

    def on_report(self, row: Row) -> None:
        """Keeps the row until it is asked for."""
        self._row = row

    def close(self, finished: bool) -> None:
        """Gives up the port."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def text(self) -> str:
        """What is served now."""
        return exposition(self._heartbeat.record(), self._row)


def _handler(endpoint: MetricsEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS

        def do_GET(self) -> None:
            """Answers one request."""
            if self.path.partition("?")[0] != PATH:
                self.send_error(404, explain=f"the only page is {PATH}")
                return
            body = endpoint.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing: one line for each request would fill the log."""

    return Handler


def exposition(record: Mapping[str, Any], row: Row) -> str:
    """The heartbeat's record, and the finite columns of a report, as Prometheus' text."""
    worker = f'{{worker="{_escaped(record["worker"])}"}}'
    ahead = time.time() - time.monotonic()  # heartbeats have the monotonic clock
    lines: list[str] = []

    def add(name: str, kind: str, about: str, samples: Mapping[str, float]) -> None:
        lines.extend((f"# HELP {name} {about}", f"# TYPE {name} {kind}"))
        lines.extend(f"{name}{labels} {float(value)!r}" for labels, value in samples.items())

    began, progressed = record["began"] + ahead, record["progressed"]
    add("mlma_start_time_seconds", "gauge", "When this worker was started, in Unix time.", {worker: began})
    steps = {} if progressed is None else {worker: progressed + ahead}
    add("mlma_last_step_time_seconds", "gauge", "When this worker last made progress, in Unix time.", steps)
    add("mlma_frames_total", "counter", "Frames that this worker has learned from or sent.", {worker: record["frames"]})
    waits = f'{worker[:-1]},for="{_escaped(record["waits_for"])}"}}'
    add("mlma_waiting", "gauge", "1 if this worker waits for another one.", {waits: bool(record["waits_for"])})
    columns = {f'{worker[:-1]},column="{_escaped(name)}"}}': row[name] for name in row if math.isfinite(row[name])}
    if columns:
        add("mlma_report", "gauge", "The last report of the run: columns of metrics.csv.", columns)
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
