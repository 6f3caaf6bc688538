"""check: can the run be started on these hosts? A table with a row for each host, and a line for each thing that is wrong.

Every host is compared with this machine: what a run needs is the same code and the same packages everywhere. Changes nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlma.cluster.context import Context, display_name, plural, summarize_plan
from mlma.cluster.planning.launch_plan import Host, Plan, container_engines, learners_on
from mlma.cluster.planning.workers_csv import Worker
from mlma.cluster.remote.code_files import code_files
from mlma.cluster.remote.host_pool import call_host_agent
from mlma.cluster.remote.ssh import Connection, HostError

PACKAGES = ("tensorflow", "tensorflow-cpu", "dm-sonnet", "dm-tree", "numpy", "gymnasium", "ale-py", "rich")
LEARNER_PACKAGES = ("horovod",)
MIN_HOME_BYTES, MIN_LOGDIR_BYTES = 5e7, 1e9  # bytes that must be free: for logs, for checkpoints
CLOCK_TOLERANCE_SECONDS = 2.0  # seconds that clocks may differ by
COLUMNS = ("ssh", "python", "code", "packages", "ports", "disk", "clock", "gpu")
Cell = tuple[str, str]  # what is shown, and the reason if it is red


def check(context: Context) -> int:
    begun = time.monotonic()
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in code_files().items()}
    plan = context.plan

    def probe(host: Host, connection: Connection) -> dict[str, Cell]:
        reached = time.monotonic() - begun
        request = preflight_request(context, host) | {"files": [] if host.image else list(digests)}
        try:
            before = time.time()
            answer = call_host_agent(host, connection, request, context.hosts.seconds, "preflight")
            after = time.time()
        except HostError as fault:
            return {"ssh": (f"{reached:.1f} s", ""), "python": ("none", str(fault))}
        cells = assess_host(plan, host, answer, digests, learners_on(plan, host))
        return cells | {"ssh": (f"{reached:.1f} s", ""), "clock": clock_cell(answer["clock"], before, after)}

    answers = context.hosts.each(plan.hosts, probe)
    cells = {key: {"ssh": ("none", str(a))} if isinstance(a, HostError) else a for key, a in answers.items()}
    print_table(Console(highlight=False), plan, cells, time.monotonic() - begun)
    return 1 if any(reason for row in cells.values() for _, reason in row.values()) else 0


def preflight_request(context: Context, host: Host) -> dict[str, Any]:
    plan, options = context.plan, context.options
    learners = [learner for learner in plan.learners if learner.worker.host == host.key]
    several = len(plan.learners) > 1
    ssh = plan.tunnels(host.key) or (plan.spread() and host == plan.head)
    return {
        "id": context.state.id,
        "folder": host.folder,
        "packages": [] if host.image else [*PACKAGES, *(LEARNER_PACKAGES if learners and several else ())],
        "tools": ["tmux", *(["ssh"] if ssh else []), *container_engines(plan, host)],
        "ports": [["127.0.0.1" if options.tunnel else learner.worker.ip, learner.port] for learner in learners],
        "folders": [".", *([context.logdir()] if host == plan.head else [])],
        "gpus": any(learner.worker.cuda_visible_devices not in ("", "-1") for learner in learners),
    }


def assess_host(
    plan: Plan, host: Host, answer: dict[str, Any], digests: dict[str, str], learners: list[Worker]
) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    version = answer["python"]
    cells["python"] = (version, "" if host.image or version.startswith("3.11.") else f"Python {version}; must be 3.11")
    if answer["tools"]:
        cells["python"] = (version, f"lacks {', '.join(answer['tools'])}")
    cells["code"] = ("image", "") if host.image else _code(answer["code"], digests, host.folder)
    cells["packages"] = ("image", "") if host.image else _packages(answer["packages"])
    busy = {place: why for place, why in answer["ports"].items() if why and not (answer["ours"] and "in use" in why)}
    cells["ports"] = (
        "free" if answer["ports"] else "-",
        "; ".join(f"cannot listen at {p}: {why}" for p, why in busy.items()),
    )
    if busy:
        cells["ports"] = ("taken", cells["ports"][1])
    elif any(answer["ports"].values()):
        cells["ports"] = ("ours", "")
    cells["disk"] = _disk(answer["disk"])
    numbers = [n for w in learners for n in w.cuda_visible_devices.split(",") if n.isdigit()]
    lacking = [n for n in numbers if int(n) >= answer["gpus"]]
    cells["gpu"] = (
        str(answer["gpus"]) if numbers else "-",
        f"has {plural(answer['gpus'], 'GPU')}, none of number {lacking[0]}" if lacking else "",
    )
    return cells


def _disk(free: dict[str, int]) -> Cell:
    """The home, and on the first learner's host the logdir."""
    reasons = []
    for folder, room in free.items():
        where, wanted = ("the home", MIN_HOME_BYTES) if folder == "." else (folder, MIN_LOGDIR_BYTES)
        if room < 0:
            reasons.append(f"{where} may not be written to by this user")
        elif room < wanted:
            reasons.append(f"{where} has {room / 1e9:.2f} GB free; {wanted / 1e9:g} GB are wanted")
    least = min(free.values())
    return ("no" if least < 0 else f"{least / 1e9:.1f}G", "; ".join(reasons))


def _code(there: dict[str, str], here: dict[str, str], folder: str) -> Cell:
    lacking = [name for name in here if not there[name]]
    differ = [name for name in here if there[name] and there[name] != here[name]]
    if len(lacking) == len(here):
        return "none", f"no code in {folder} (--sync copies it; the column folder names another place)"
    if lacking or differ:
        names = [*differ, *lacking]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return "differs", f"other code than here: {', '.join(names[:3])}{more} (--sync copies it)"
    return "same", ""


def _packages(there: dict[str, str]) -> Cell:
    def here(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return ""

    wrong = []
    tensorflow = there.get("tensorflow") or there.get("tensorflow-cpu") or ""
    mine = here("tensorflow") or here("tensorflow-cpu")
    if tensorflow != mine and mine:
        wrong.append(f"tensorflow {tensorflow or 'missing'}, here {mine}")
    for name, version in there.items():
        wanted = here(name)
        if name not in ("tensorflow", "tensorflow-cpu") and (not version or (wanted and version != wanted)):
            wrong.append(f"{name} {version or 'missing'}{f', here {wanted}' if wanted else ''}")
    return (f"{len(wrong)} differ" if wrong else "same", "; ".join(wrong))


def clock_cell(there: float, before: float, after: float) -> Cell:
    """What the time between question and answer cannot explain."""
    offset = there - before if there < before else there - after if there > after else 0.0
    wrong = f"its clock is {abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'}; ages and times of workers would be wrong"
    return (f"{offset:+.1f} s", wrong if abs(offset) > CLOCK_TOLERANCE_SECONDS else "")


def print_table(console: Console, plan: Plan, cells: dict[str, dict[str, Cell]], seconds: float) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("host", no_wrap=True, overflow="ellipsis")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("code", "packages", "ports") else "right", no_wrap=True)
    reasons = []
    for key, row in cells.items():
        words = [Text(display_name(plan.hosts[key]))]
        for name in COLUMNS:
            shown, reason = row.get(name, ("", ""))
            words.append(Text(f"!{shown}" if reason else shown, style="bold red" if reason else ""))
            if reason:
                reasons.append(f"{display_name(plan.hosts[key])}: {name}: {reason}")
        table.add_row(*words)
    console.print(table)
    for reason in reasons:
        console.print(Text(reason, style="red"), soft_wrap=True)
    bad = len({key for key, row in cells.items() if any(reason for _, reason in row.values())})
    verdict = (
        f"{plural(bad, 'host')} of {len(cells)} with something wrong"
        if bad
        else f"{plural(len(cells), 'host')}, nothing wrong"
    )
    console.print(f"{verdict}; {summarize_plan(plan)}; {seconds:.1f} s", soft_wrap=True)
