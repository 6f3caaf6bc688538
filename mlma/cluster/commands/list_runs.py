"""list: the runs that this user started from this machine, each with what its first learner's host says now."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlma.cluster.commands.status import learner_rows, run_title
from mlma.cluster.commands.status_table import STYLES
from mlma.cluster.context import make_context
from mlma.cluster.options import Invocation
from mlma.cluster.remote.ssh_login import HostError
from mlma.cluster.run_list import known_logdirs
from mlma.cluster.state import load_state

ANSWER_SECONDS = 5.0  # for a learner's host to answer
HEAD_COLUMNS = ("run", "state", "logdir")


def list_runs(invocation: Invocation) -> NoReturn:
    """Ends with code 0, whatever the states are."""
    rows: dict[str, dict[str, str]] = {}
    logdirs = known_logdirs()

    def look(logdir: str) -> None:
        rows[logdir] = run_row(invocation, logdir)

    threads = [threading.Thread(target=look, args=(logdir,), daemon=True) for logdir in logdirs]
    for thread in threads:
        thread.start()
    end = time.monotonic() + ANSWER_SECONDS
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    silent = {"run": "", "state": "unreachable", "summary": f"no answer within {ANSWER_SECONDS:.0f} s"}
    found: list[dict[str, str]] = [dict(rows.get(logdir, silent), logdir=logdir) for logdir in logdirs]
    if invocation.given_options.get("json"):
        print(json.dumps(found))
        _end()
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for name in (*HEAD_COLUMNS, "summary"):
        table.add_column(name, overflow="fold")
    for row in found:
        cells = [Text(row[name], style=STYLES.get(row[name], "") if name == "state" else "") for name in HEAD_COLUMNS]
        table.add_row(*cells, Text(row["summary"]))
    if found:
        Console(highlight=False).print(table)
    else:
        print("no runs were started from this machine")
    _end()


def _end() -> NoReturn:
    """A normal exit would be delayed by threads that wait for a dead host."""
    sys.stdout.flush()
    os._exit(0)


def run_row(invocation: Invocation, logdir: str) -> dict[str, str]:
    """Name, state of the learners, and summary of one run."""
    try:
        state = load_state(logdir)
        config = invocation.config.replace(logdir=logdir)
        context = make_context(
            dataclasses.replace(invocation, command="status", operands=(), given_flags={}, config=config)
        )
    except ValueError as error:
        return {"run": "", "state": "failed", "summary": str(error).splitlines()[0]}
    plan = context.plan
    if not state.up:
        return {"run": plan.name, "state": "down", "summary": ""}
    context.hosts.shows_progress = False
    request = context.request("status", logdir=context.logdir(), rows=1)
    answers: dict[str, Any] = {key: {"records": {}} for key in plan.hosts}
    answers |= context.hosts.request({plan.head.key: request}, ANSWER_SECONDS)
    head = answers[plan.head.key]
    if isinstance(head, HostError):
        return {"run": plan.name, "state": "unreachable", "summary": str(head)}
    metrics = head["metrics"][-1] if head.get("metrics") else {}
    learner = learner_rows(context, answers, metrics)[0]
    return {"run": plan.name, "state": learner.state, "summary": learner.problem or run_title(context, metrics)}
