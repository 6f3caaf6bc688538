"""logs: the last lines of workers, from the files on their hosts; `--follow` goes on with what comes."""

from __future__ import annotations

import re
import time
from typing import Any

from mlma.cluster.context import Context
from mlma.cluster.planning.launch_plan import LEARNERS
from mlma.cluster.remote.ssh import HostError


def logs(context: Context) -> int:
    windows = {window.name: window for window in context.plan.windows if window.name.partition("-")[0] != "tunnel"}
    asked = [LEARNERS if re.fullmatch(r"learner(-\d+)?", name) else name for name in context.call.operands]
    wanted = tuple(dict.fromkeys(asked)) or tuple(windows)
    if unknown := [name for name in wanted if name not in windows]:
        raise ValueError(f"logs {unknown[0]}: no such worker; there are: {', '.join(windows)}")
    names: dict[str, dict[str, Any]] = {}
    for name in wanted:
        names.setdefault(windows[name].host, {})[name] = None
    failed = _show(context, names, len(wanted) > 1)
    while context.options.follow:
        try:
            time.sleep(min(1.0, context.options.every_seconds))
            _show(context, names, len(wanted) > 1)
        except KeyboardInterrupt:
            break
    return 1 if failed else 0


def _show(context: Context, names: dict[str, dict[str, Any]], several: bool) -> bool:
    """Prints what is new, and moves the offsets in `names` on; whether a host was missing."""
    requests = {key: context.request("logs", names=here, lines=context.options.lines) for key, here in names.items()}
    failed = False
    for key, answer in context.hosts.ask(requests).items():
        if isinstance(answer, HostError):
            failed = True
            if None in names[key].values():  # said once
                print(f"{key}: {answer}", flush=True)
                names[key].update({name: 0 for name, offset in names[key].items() if offset is None})
            continue
        for name, (text, end) in answer.items():
            names[key][name] = end
            for line in text.splitlines():
                print(f"{name}: {line}" if several else line, flush=True)
    return failed
