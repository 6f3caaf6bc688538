"""logs: prints the last lines of workers, from the files on their hosts; `--follow` continues with new lines."""

from __future__ import annotations

import queue
import re
import sys
import threading
import time
from typing import Any

from mlma.cluster.context import Context
from mlma.cluster.output import reader_is_gone
from mlma.cluster.planning.worker_commands import LEARNERS, worker_kind
from mlma.cluster.remote.ssh_login import HostError

FOLLOW_SECONDS = 1.0  # between two requests with --follow, at most
WAIT_SECONDS = 0.5  # for new lines, between two looks at whether somebody reads them


def logs(context: Context) -> int:
    """Exit code 1 if a host could not be reached."""
    hosts = {process.name: process.host for process in context.plan.processes if worker_kind(process.name) != "tunnel"}
    operands = context.invocation.operands
    names = dict.fromkeys(LEARNERS if re.fullmatch(r"learner(-\d+)?", name) else name for name in operands)
    names = names or dict.fromkeys(hosts)
    if unknown := [name for name in names if name not in hosts]:
        raise ValueError(f"logs {unknown[0]}: no such worker; allowed: {', '.join(hosts)}")
    offsets: dict[str, dict[str, Any]] = {}  # host key -> name -> where the text printed so far ends
    for name in names:
        offsets.setdefault(hosts[name], {})[name] = None
    if context.options.follow:
        _follow(context, offsets, len(names) > 1)
        return 0
    answers = context.hosts.request({key: _request(context, offsets[key]) for key in offsets})
    for key, answer in answers.items():
        for line in [f"{key}: {answer}"] if isinstance(answer, HostError) else _new_lines(answer, offsets[key]):
            _print(line, len(names) > 1)
    return 1 if any(isinstance(answer, HostError) for answer in answers.values()) else 0


def _follow(context: Context, offsets: dict[str, dict[str, Any]], show_names: bool) -> None:
    """Prints new lines until Ctrl-C, or until nobody reads them. Each host is asked by a thread of its own, so a dead
    one delays no other."""
    context.hosts.shows_progress = False
    lines: queue.Queue[str | tuple[str, str]] = queue.Queue()
    for key in offsets:
        threading.Thread(target=_follow_host, args=(context, key, offsets[key], lines), daemon=True).start()
    try:
        while not reader_is_gone(sys.stdout):
            try:
                _print(lines.get(timeout=WAIT_SECONDS), show_names)
            except queue.Empty:
                continue
    except KeyboardInterrupt:
        pass


def _follow_host(
    context: Context, key: str, offsets: dict[str, Any], lines: queue.Queue[str | tuple[str, str]]
) -> None:
    """Puts the new lines of one host into the queue, and once each time that it stops or begins to answer."""
    reachable = True
    while True:
        answer = context.hosts.request({key: _request(context, offsets)})[key]
        if isinstance(answer, HostError) == reachable:
            reachable = not reachable
            lines.put(f"{key}: {'answers again' if reachable else answer}")
        if not isinstance(answer, HostError):
            for line in _new_lines(answer, offsets):
                lines.put(line)
        time.sleep(min(FOLLOW_SECONDS, context.options.every_seconds))


def _request(context: Context, names: dict[str, Any]) -> dict[str, Any]:
    return context.request("logs", names=names, lines=context.options.lines)


def _new_lines(answer: dict[str, Any], offsets: dict[str, Any]) -> list[tuple[str, str]]:
    """Worker and line of the new text; advances `offsets`."""
    lines = []
    for name, (text, end) in answer.items():
        offsets[name] = end
        lines += [(name, line) for line in text.splitlines()]
    return lines


def _print(line: str | tuple[str, str], show_names: bool) -> None:
    """A line of a worker, or one about a host."""
    text = line if isinstance(line, str) else f"{line[0]}: {line[1]}" if show_names else line[1]
    print(text, flush=True)
