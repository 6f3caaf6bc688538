"""logs: prints the last lines of workers, from the files on their hosts; `--follow` continues with new lines."""

from __future__ import annotations

import re
import time
from typing import Any

from mlma.cluster.context import Context
from mlma.cluster.planning.worker_commands import LEARNERS, worker_kind
from mlma.cluster.remote.ssh import HostError

FOLLOW_SECONDS = 1.0  # between two requests with --follow, at most


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
    failed = _print_new(context, offsets, len(names) > 1)
    while context.options.follow:
        try:
            time.sleep(min(FOLLOW_SECONDS, context.options.every_seconds))
            _print_new(context, offsets, len(names) > 1)
        except KeyboardInterrupt:
            break
    return 1 if failed else 0


def _print_new(context: Context, offsets: dict[str, dict[str, Any]], show_names: bool) -> bool:
    """Prints new text and advances `offsets`. Returns whether a host could not be reached."""
    requests = {
        key: context.request("logs", names=names, lines=context.options.lines) for key, names in offsets.items()
    }
    failed = False
    for key, answer in context.hosts.request(requests).items():
        if isinstance(answer, HostError):
            failed = True
            if None in offsets[key].values():  # the first time; later it is not repeated
                print(f"{key}: {answer}", flush=True)
                offsets[key].update({name: 0 for name, offset in offsets[key].items() if offset is None})
            continue
        for name, (text, end) in answer.items():
            offsets[key][name] = end
            for line in text.splitlines():
                print(f"{name}: {line}" if show_names else line, flush=True)
    return failed
