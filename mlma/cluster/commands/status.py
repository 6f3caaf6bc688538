"""status: a table with a row for each worker, and a line for each thing that is wrong; `--watch` shows it again and again.

What is shown is what the hosts say now; a host that does not answer is shown as that. Not here: what hosts look at to answer
(mlma/cluster/on_host/host_agent.py).
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mlma.cluster.context import Context, display_name, summarize_plan
from mlma.cluster.planning.launch_plan import LEARNERS, worker_kind
from mlma.cluster.remote.host_pool import MAX_PARALLEL_HOSTS
from mlma.cluster.remote.ssh import HostError
from mlma.monitoring.bottleneck import RECENT_REPORTS, average_columns, diagnose

STYLES = {
    "running": "green", "done": "green", "starting": "yellow", "waiting": "yellow", "stopped": "yellow",
    "failed": "bold red", "gone": "bold red", "unreachable": "bold red", "off": "dim", "asked": "dim",
}  # fmt: skip
ANSWER_TIMEOUT_SECONDS = 10.0  # seconds for a host to answer, at least
WATCH_WAIT_SECONDS = 2.0  # seconds for which --watch waits for answers before it shows those that it has
STALE_SECONDS = 60.0  # seconds without a report after which learners are said to be silent
LINE_PREFIX = re.compile(r"^(\d\d:\d\d:\d\d )?((learners|(actor|learner|tunnel)[- ]\d+): )?")
RATE = re.compile(r"([\d,]+) frames/s")


class WorkerRow(NamedTuple):
    worker: str
    host: str
    state: str
    up: str
    rate: str
    lag: str
    last: str
    wrong: str = ""


class NoAnswerYet(HostError):
    """A host that was asked and has not answered so far."""


class StatusPoller:
    """Asks every host again and again; one that takes its time is shown as it was, and delays no other."""

    def __init__(self, context: Context) -> None:
        self._context, self._pool = context, ThreadPoolExecutor(MAX_PARALLEL_HOSTS)
        self._asked: dict[str, Future[Any]] = {}
        self._known: dict[str, Any] = {}

    def answers(self, requests: dict[str, Any], seconds: float) -> dict[str, Any]:
        for key, request in requests.items():
            if key not in self._asked:
                self._asked[key] = self._pool.submit(self._context.hosts.ask, {key: request}, seconds)
        wait(self._asked.values(), WATCH_WAIT_SECONDS if self._known else 2 * WATCH_WAIT_SECONDS)
        for key, future in list(self._asked.items()):
            if future.done():
                self._known |= future.result()
                del self._asked[key]
        return {key: self._known.get(key, NoAnswerYet("was asked, has not answered yet")) for key in requests}


def status(context: Context) -> int:
    console = Console(highlight=False)
    if not context.options.watch:
        lines, head = query_hosts(context, context.hosts.ask)
        console.print(render(console, lines, head))
        return 0 if all(line.state in ("running", "done", "starting") for line in lines) else 1
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        watch = StatusPoller(context)
        while True:
            try:
                lines, head = query_hosts(context, watch.answers)
                live.update(render(console, lines, head, console.height if console.is_terminal else 0), refresh=True)
                time.sleep(context.options.every_seconds)
            except KeyboardInterrupt:
                break
    sys.stdout.flush()
    os._exit(0)  # threads that wait for a dead host would keep us


def query_hosts(
    context: Context, ask: Callable[[dict[str, Any], float], dict[str, Any]]
) -> tuple[list[WorkerRow], str]:
    plan = context.plan
    logdir = {plan.head.key: context.logdir()}
    requests = {key: context.request("status", logdir=logdir.get(key, ""), rows=RECENT_REPORTS) for key in plan.hosts}
    answers = ask(requests, max(context.options.connect_seconds, ANSWER_TIMEOUT_SECONDS))
    head = answers[plan.head.key]
    rows = head.get("metrics", []) if isinstance(head, dict) else []
    metrics = rows[-1] if rows else {}
    lines = learner_lines(context, answers, metrics)
    for window in sorted(
        plan.windows,
        key=lambda w: (worker_kind(w.name) == "tunnel", int(w.name.rpartition("-")[2]) if "-" in w.name else -1),
    ):
        if window.name != LEARNERS:
            line = _line(context, window.name, window.host, answers)
            if worker_kind(window.name) != "tunnel" or line.state not in ("running", "done"):
                lines.append(line)
    head_line = title(context, metrics)
    where = diagnose(average_columns(rows)) if metrics and metrics["age"] < STALE_SECONDS else ""
    return lines, f"{head_line}\n{where}" if where else head_line


def title(context: Context, metrics: dict[str, float]) -> str:
    plan = context.plan
    words = [f"{plan.session}: {summarize_plan(plan)}"]
    if metrics.get("frames", 0) > 0:
        total = plan.config.run.total_environment_frames
        of = f" of {_big(total)}" if total else ""
        words.append(f"{_big(metrics['frames'])}{of} frames, {metrics.get('frames_per_second', 0):,.0f} frames/s")
        if "return/mean" in metrics and metrics["return/mean"] == metrics["return/mean"]:
            words.append(f"return {metrics['return/mean']:.2f}")
        if metrics["age"] > STALE_SECONDS:
            words.append(f"last report {format_duration(metrics['age'])} ago")
    return "; ".join(words)


def _big(number: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f}"


def learner_lines(context: Context, answers: dict[str, Any], metrics: dict[str, float]) -> list[WorkerRow]:
    """A row for each learner; mpirun's window on the first one's host speaks for all."""
    plan = context.plan
    whole = _line(context, LEARNERS, plan.head.key, answers)
    head = answers[plan.head.key]
    tail = head["records"].get(LEARNERS, {}).get("tail", []) if isinstance(head, dict) else []
    lines = []
    for learner in plan.learners:
        line = whole._replace(worker=f"learner-{learner.rank}", host=display_name(plan.hosts[learner.worker.host]))
        if learner.rank == 0 and whole.state == "running" and metrics:
            line = line._replace(
                rate=f"{metrics.get('frames_per_second', 0):,.0f}", lag=_format_number(metrics.get("lag/mean"))
            )
        if learner.rank > 0:
            line = line._replace(wrong="")
            answer = answers[learner.worker.host]
            if isinstance(answer, NoAnswerYet):
                line = line._replace(state="asked", last=str(answer), up="")
            elif isinstance(answer, HostError):
                line = line._replace(state="unreachable", wrong=str(answer), last=str(answer), up="")
        if len(plan.learners) > 1 and line.state == "running":
            own = [text for text in tail if f"learner {learner.rank}: " in text]
            line = line._replace(last=LINE_PREFIX.sub("", own[-1]) if own else line.last)
        lines.append(line)
    return lines


def _format_number(value: float | None) -> str:
    return f"{value:.1f}" if value is not None and value == value else ""


def _line(context: Context, name: str, host: str, answers: dict[str, Any]) -> WorkerRow:
    where, answer = display_name(context.plan.hosts[host]), answers[host]
    if isinstance(answer, NoAnswerYet):
        return WorkerRow(name, where, "asked", "", "", "", str(answer))
    if isinstance(answer, HostError):
        return WorkerRow(name, where, "unreachable", "", "", "", str(answer), str(answer))
    record = answer["records"].get(name)
    if record is None:
        return WorkerRow(name, where, "off", "", "", "", "not started; `up` starts it")
    state, why = record["state"], record.get("why", "")
    tail = record.get("tail", [])
    last = LINE_PREFIX.sub("", tail[-1]) if tail else ""
    last = "started; has said nothing yet" if last.startswith("starts: ") else last
    age = format_duration(answer["now"] - record["since"]) if record.get("since") else ""
    restarts = f"; restarted {record['restarts']} x" if record.get("restarts") else ""
    rates = [match[1] for text in tail if (match := RATE.search(text))]
    if state == "running":
        return WorkerRow(
            name,
            where,
            state,
            age,
            rates[-1] if rates and worker_kind(name) == "actor" else "",
            "",
            f"{last}{restarts}",
        )
    said = [LINE_PREFIX.sub("", text) for text in tail if not LINE_PREFIX.sub("", text).startswith("ended with code")]
    reason = f"{why}{f': {said[-1]}' if said and state in ('failed', 'waiting') else ''}"
    wrong = (
        f"{reason}{'; `up` starts it again' if state in ('gone', 'failed', 'stopped') else ''}"
        if state not in ("done", "starting")
        else ""
    )
    return WorkerRow(name, where, state, age, "", "", reason or last, wrong)


def format_duration(seconds: float) -> str:
    seconds = max(0, int(seconds))
    for unit, name, smaller, less in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= unit:
            return f"{seconds // unit}{name}{seconds % unit // smaller:02d}{less}"
    return f"{seconds}s"


def render(console: Console, lines: list[WorkerRow], head: str, height: int = 0) -> Group:
    """`height` is that of the terminal, if there is one: rows without room are counted, those with a problem come first."""
    reasons: dict[str, list[str]] = {}
    for line in lines:
        if line.wrong:
            reasons.setdefault(f"{line.host}: {line.wrong}", []).append(line.worker)
    notes = [Text(_reason(place, workers), style="red") for place, workers in reasons.items()]
    hidden, above = 0, 2 * head.count("\n")  # where the time goes may need a second line
    if height and len(lines) + len(notes) + 5 + above > height:
        room = max(3, height - 6 - above - min(len(notes), 8))
        notes = notes[:8]
        chosen = sorted(lines, key=lambda line: (not line.wrong, not line.worker.startswith("learner")))[:room]
        hidden, lines = len(lines) - len(chosen), [line for line in lines if line in chosen]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", expand=True)
    for name in ("worker", "host", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("up", "frames/s", "lag"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last line", no_wrap=True, overflow="ellipsis", ratio=1)
    for line in lines:
        cells = [Text(line.worker), Text(line.host), Text(line.state, style=STYLES.get(line.state, ""))]
        table.add_row(*cells, line.up, line.rate, line.lag, Text(line.last))
    states: dict[str, int] = {}
    for line in lines:
        states[line.state] = states.get(line.state, 0) + 1
    more = [Text(f"... and {hidden} more, all as they should be", style="dim")] if hidden else []
    return Group(Text(head, style="bold"), table, *more, *([Text("")] if notes else []), *notes)


def _reason(place: str, workers: list[str]) -> str:
    host, _, why = place.partition(": ")
    names = ", ".join(workers[:4]) + (f" and {len(workers) - 4} more" if len(workers) > 4 else "")
    return f"{names} on {host}: {why}"
