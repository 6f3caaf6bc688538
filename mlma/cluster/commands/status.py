"""status: a row for each worker, then the problems, one a line; `--watch` refreshes the table.

The table shows what the hosts answer now. A host that does not answer is shown as unreachable. Not here: what the hosts
look at (mlma/cluster/on_host/host_agent.py), the layout of the table (mlma/cluster/commands/status_table.py).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live

from mlma.cluster.commands.status_table import GOOD_STATES, WorkerRow, render
from mlma.cluster.context import Context, attach_text, display_name, summarize_plan
from mlma.cluster.output import reader_is_gone
from mlma.cluster.planning.worker_commands import LEARNERS, worker_kind
from mlma.cluster.remote.host_pool import MAX_PARALLEL_HOSTS
from mlma.cluster.remote.ssh_login import HostError
from mlma.monitoring.bottleneck import RECENT_REPORTS, average_columns, diagnose

RESTARTED_BY_UP = ("gone", "failed", "stopped")
ANSWER_TIMEOUT_SECONDS = 10.0  # for a host to answer, at least
WATCH_WAIT_SECONDS = 2.0  # for which --watch waits for answers before it shows those that it has
STALE_SECONDS = 60.0  # without a report, after which the title says so
QUIET_TUNNEL_STATES = ("running", "done", "unreachable")  # the host is named by its workers then
LINE_PREFIX = re.compile(r"^(\d\d:\d\d:\d\d )?((learners|(actor|learner|tunnel)[- ]\d+): )?")
RATE = re.compile(r"([\d,]+) frames/s")
RequestHosts = Callable[[dict[str, Any], float], dict[str, Any]]  # requests and time limit -> answers, by host key


class RunStatus(NamedTuple):
    """What `status` shows."""

    rows: list[WorkerRow]
    title: str
    metrics: dict[str, float]  # the last report of the learners


class NoAnswerYet(HostError):  # a state rather than an error
    """A host has not answered so far."""


class StatusPoller:
    """Requests the status of every host again and again. A slow host delays no other; its previous answer is shown."""

    def __init__(self, context: Context) -> None:
        self._context, self._pool = context, ThreadPoolExecutor(MAX_PARALLEL_HOSTS)
        self._pending: dict[str, Future[Any]] = {}
        self._answers: dict[str, Any] = {}

    def poll(self, requests: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The latest answer of each host."""
        for key, request in requests.items():
            if key not in self._pending:
                self._pending[key] = self._pool.submit(self._context.hosts.request, {key: request}, seconds)
        wait(self._pending.values(), WATCH_WAIT_SECONDS if self._answers else 2 * WATCH_WAIT_SECONDS)
        for key, future in list(self._pending.items()):
            if future.done():
                self._answers |= future.result()
                del self._pending[key]
        return {key: self._answers.get(key, NoAnswerYet("no answer yet")) for key in requests}

    def close(self) -> None:
        """Asks for nothing more, and waits for no answer."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def status(context: Context) -> int:
    """Exit code 1 if a worker is not running, starting or done."""
    console, options = Console(highlight=False), context.options
    if not options.watch:
        now = query_hosts(context, context.hosts.request)
        if options.json:
            print(as_json(context, now))
        else:
            console.print(render(now.rows, now.title, console.width))
            console.print(f"to attach: {attach_text(context.plan, context.plan.head)}", soft_wrap=True)
        return 0 if all(row.state in GOOD_STATES and not row.problem for row in now.rows) else 1
    context.hosts.shows_progress = False
    live = Live(console=console, auto_refresh=False, screen=console.is_terminal)
    with contextlib.nullcontext() if options.json else live:
        poller = StatusPoller(context)
        while not reader_is_gone(sys.stdout):
            try:
                now = query_hosts(context, poller.poll)
                if options.json:
                    print(as_json(context, now), flush=True)
                else:
                    height = console.height if console.is_terminal else 0
                    live.update(render(now.rows, now.title, console.width, height), refresh=True)
                time.sleep(options.every_seconds)
            except KeyboardInterrupt:
                break
    sys.stdout.flush()
    os._exit(0)  # threads that wait for a dead host would delay a normal exit


def as_json(context: Context, now: RunStatus) -> str:
    """One line of JSON: the run, its last report, its workers."""
    return json.dumps(
        {
            "run": context.plan.session,
            "id": context.state.id,
            "logdir": context.invocation.config.run.logdir,
            "ok": all(row.state in GOOD_STATES for row in now.rows),
            "summary": now.title,
            "metrics": {name: value if math.isfinite(value) else None for name, value in now.metrics.items()},
            "workers": [row._asdict() for row in now.rows],
        }
    )


def query_hosts(context: Context, request_hosts: RequestHosts) -> RunStatus:
    """The table's rows, and the title above it."""
    plan = context.plan
    logdir = {plan.head.key: context.logdir()}
    requests = {key: context.request("status", logdir=logdir.get(key, ""), rows=RECENT_REPORTS) for key in plan.hosts}
    answers = request_hosts(requests, max(context.options.connect_seconds, ANSWER_TIMEOUT_SECONDS))
    head_answer = answers[plan.head.key]
    reports = head_answer.get("metrics", []) if isinstance(head_answer, dict) else []
    metrics = reports[-1] if reports else {}
    rows = learner_rows(context, answers, metrics)
    names = [(process.name, process.host) for process in plan.processes if process.name != LEARNERS]
    for name, host in sorted(names, key=_actors_first):
        row = worker_row(context, name, host, answers)
        if worker_kind(name) != "tunnel" or row.state not in QUIET_TUNNEL_STATES:
            rows.append(row)
    rows = add_full_disks(rows, {display_name(plan.hosts[key]): answer for key, answer in answers.items()})
    title = run_title(context, metrics)
    bottleneck = diagnose(average_columns(reports)) if metrics and metrics["age"] < STALE_SECONDS else ""
    return RunStatus(rows, f"{title}\n{bottleneck}" if bottleneck else title, metrics)


def add_full_disks(rows: list[WorkerRow], answers: dict[str, Any]) -> list[WorkerRow]:
    """The rows, each with the full disks of its host. `answers` are by the host's name in the table."""
    added = []
    for row in rows:
        answer = answers[row.host]
        full = "; ".join(answer.get("disks", [])) if isinstance(answer, dict) else ""
        added.append(row._replace(problem="; ".join(filter(None, (row.problem, full)))))
    return added


def _actors_first(name_and_host: tuple[str, str]) -> tuple[bool, int, str]:
    name, host = name_and_host
    return worker_kind(name) == "tunnel", int(name.rpartition("-")[2]), host


def run_title(context: Context, metrics: dict[str, float]) -> str:
    """The run in one line: its size, progress, rate and mean return."""
    plan = context.plan
    parts = [f"{plan.name}: {summarize_plan(plan)}"]
    if away := [display_name(host) for key, host in plan.hosts.items() if key in context.state.away]:
        parts.append(f"actors of {', '.join(away)} moved to other hosts")
    if metrics.get("frames", 0) > 0:
        total = plan.config.run.total_environment_frames
        of_total = f" of {_format_frames(total)}" if total else ""
        rate = f"{metrics.get('frames_per_second', 0):,.0f} frames/s"
        parts.append(f"{_format_frames(metrics['frames'])}{of_total} frames, {rate}")
        if "return/mean" in metrics and metrics["return/mean"] == metrics["return/mean"]:
            parts.append(f"return {metrics['return/mean']:.2f}")
        if metrics["age"] > STALE_SECONDS:
            parts.append(f"last report {format_duration(metrics['age'])} ago")
    return "; ".join(parts)


def learner_rows(context: Context, answers: dict[str, Any], metrics: dict[str, float]) -> list[WorkerRow]:
    """A row for each learner. The process on the first learner's host, mpirun, runs all of them."""
    plan = context.plan
    head_row = worker_row(context, LEARNERS, plan.head.key, answers)
    head_answer = answers[plan.head.key]
    records = head_answer["records"] if isinstance(head_answer, dict) else {}
    tail = records.get(LEARNERS, {}).get("tail", [])
    rows = []
    for learner in plan.learners:
        row = head_row._replace(worker=f"learner-{learner.rank}", host=display_name(plan.hosts[learner.worker.host]))
        if learner.rank == 0 and head_row.state == "running" and metrics:
            rate = f"{metrics.get('frames_per_second', 0):,.0f}"
            row = row._replace(rate=rate, lag=_format_number(metrics.get("lag/mean")))
        if learner.rank > 0:
            row = row._replace(problem="")
            answer = answers[learner.worker.host]
            if isinstance(answer, NoAnswerYet):
                row = row._replace(state="pending", last_line=str(answer), time="")
            elif isinstance(answer, HostError):
                row = row._replace(state="unreachable", problem=str(answer), last_line=str(answer), time="")
        if len(plan.learners) > 1 and row.state == "running":
            own_lines = [text for text in tail if f"learner {learner.rank}: " in text]
            row = row._replace(last_line=_strip_prefix(own_lines[-1]) if own_lines else row.last_line)
        rows.append(row)
    return rows


def worker_row(context: Context, name: str, host_key: str, answers: dict[str, Any]) -> WorkerRow:
    """The row of a supervised process."""
    host, answer = display_name(context.plan.hosts[host_key]), answers[host_key]
    if isinstance(answer, NoAnswerYet):
        return WorkerRow(name, host, "pending", last_line=str(answer))
    if isinstance(answer, HostError):
        return WorkerRow(name, host, "unreachable", last_line=str(answer), problem=str(answer))
    record = answer["records"].get(name)
    if record is None:
        return WorkerRow(name, host, "off", last_line="not started; `up` starts it")
    state, reason, tail = record["state"], record.get("reason", ""), record.get("tail", [])
    since = format_duration(answer["now"] - record["since"]) if record.get("since") else ""
    last_line = _strip_prefix(tail[-1]) if tail else ""
    if last_line.startswith("started: "):
        last_line = "started, no output yet"
    if state == "running":
        rates = [match[1] for text in tail if (match := RATE.search(text))]
        rate = rates[-1] if rates and worker_kind(name) == "actor" else ""
        restarts = f"; restarted {record['restarts']} x" if record.get("restarts") else ""
        return WorkerRow(name, host, state, since, rate, last_line=f"{last_line}{restarts}")
    advice = "; `up` restarts it" if state in RESTARTED_BY_UP else ""
    problem = f"{reason}{advice}" if state not in ("done", "starting") else ""
    return WorkerRow(name, host, state, since, last_line=reason or last_line, problem=problem)


def format_duration(seconds: float) -> str:
    """Two units at most, such as 2h05m."""
    seconds = max(0, int(seconds))
    for size, unit, smaller_size, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return f"{seconds // size}{unit}{seconds % size // smaller_size:02d}{smaller_unit}"
    return f"{seconds}s"


def _strip_prefix(line: str) -> str:
    """A line of a log without its time and worker."""
    return LINE_PREFIX.sub("", line)


def _format_frames(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _format_number(value: float | None) -> str:
    return f"{value:.1f}" if value is not None and value == value else ""
