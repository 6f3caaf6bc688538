"""check: can the run be started on these hosts? A table with a row for each host, and a line for each thing that is wrong.

Every host is compared with this machine: what a run needs is the same code and the same packages everywhere. Changes nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlma.cluster.context import Context, count, short, sizes
from mlma.cluster.hosts import ask
from mlma.cluster.plan import ROOT, Host, Plan
from mlma.cluster.ssh import Connection, Fault
from mlma.cluster.table import Worker
from mlma.cluster.up import engines

PACKAGES = ("tensorflow", "tensorflow-cpu", "dm-sonnet", "dm-tree", "numpy", "gymnasium", "ale-py", "rich")
LEARNER_PACKAGES = ("horovod",)
DISK_HOME, DISK_LOGDIR = 5e7, 1e9  # bytes that must be free: for logs, for checkpoints
CLOCK = 2.0  # seconds that clocks may differ by
COLUMNS = ("ssh", "python", "code", "packages", "ports", "disk", "clock", "gpu")
Cell = tuple[str, str]  # what is shown, and the reason if it is red


def code_files() -> dict[str, Path]:
    """What must be the same everywhere, by name relative to the checkout: the code, and the tables and scripts beside it."""
    found = [path for folder in ("agents", "mlma") for path in sorted(ROOT.glob(f"{folder}/**/*")) if path.is_file()]
    paths = [ROOT / "experiment.py", *(path for path in found if "__pycache__" not in path.parts)]
    return {str(path.relative_to(ROOT)): path for path in paths}


def check(context: Context) -> int:
    begun = time.monotonic()
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in code_files().items()}
    plan = context.plan

    def probe(host: Host, connection: Connection) -> dict[str, Cell]:
        reached = time.monotonic() - begun
        request = question(context, host) | {"files": [] if host.image else list(digests)}
        try:
            before = time.time()
            answer = ask(host, connection, request, context.hosts.seconds, "probe")
            after = time.time()
        except Fault as fault:
            return {"ssh": (f"{reached:.1f} s", ""), "python": ("none", str(fault))}
        cells = judge(plan, host, answer, digests, learners_on(plan, host))
        return cells | {"ssh": (f"{reached:.1f} s", ""), "clock": clock(answer["clock"], before, after)}

    answers = context.hosts.each(plan.hosts, probe)
    cells = {key: {"ssh": ("none", str(a))} if isinstance(a, Fault) else a for key, a in answers.items()}
    show(Console(highlight=False), plan, cells, time.monotonic() - begun)
    return 1 if any(reason for row in cells.values() for _, reason in row.values()) else 0


def learners_on(plan: Plan, host: Host) -> list[Worker]:
    return [learner.worker for learner in plan.learners if learner.worker.host == host.key]


def question(context: Context, host: Host) -> dict[str, Any]:
    plan, options = context.plan, context.options
    learners = [learner for learner in plan.learners if learner.worker.host == host.key]
    several = len(plan.learners) > 1
    ssh = plan.tunnels(host.key) or (plan.spread() and host == plan.head)
    return {
        "id": context.state.id,
        "folder": host.folder,
        "packages": [] if host.image else [*PACKAGES, *(LEARNER_PACKAGES if learners and several else ())],
        "tools": ["tmux", *(["ssh"] if ssh else []), *engines(plan, host)],
        "ports": [["127.0.0.1" if options.tunnel else learner.worker.ip, learner.port] for learner in learners],
        "folders": [".", *([context.logdir()] if host == plan.head else [])],
        "gpus": any(learner.worker.cuda_visible_devices not in ("", "-1") for learner in learners),
    }


def judge(plan: Plan, host: Host, answer: dict[str, Any], digests: dict[str, str], learners: list[Worker]) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    version = answer["python"]
    cells["python"] = (version, "" if host.image or version.startswith("3.11.") else f"Python {version}; must be 3.11")
    if answer["tools"]:
        cells["python"] = (version, f"lacks {', '.join(answer['tools'])}")
    cells["code"] = ("image", "") if host.image else _code(answer["code"], digests, host.folder)
    cells["packages"] = ("image", "") if host.image else _packages(answer["packages"])
    busy = {place: why for place, why in answer["ports"].items() if why and not (answer["ours"] and "in use" in why)}
    cells["ports"] = ("free" if answer["ports"] else "-", "; ".join(f"cannot listen at {p}: {why}" for p, why in busy.items()))
    if busy:
        cells["ports"] = ("taken", cells["ports"][1])
    elif any(answer["ports"].values()):
        cells["ports"] = ("ours", "")
    cells["disk"] = _disk(answer["disk"])
    numbers = [n for w in learners for n in w.cuda_visible_devices.split(",") if n.isdigit()]
    lacking = [n for n in numbers if int(n) >= answer["gpus"]]
    cells["gpu"] = (
        str(answer["gpus"]) if numbers else "-",
        f"has {count(answer['gpus'], 'GPU')}, none of number {lacking[0]}" if lacking else "",
    )
    return cells


def _disk(free: dict[str, int]) -> Cell:
    """The home, and on the first learner's host the logdir."""
    reasons = []
    for folder, room in free.items():
        where, wanted = ("the home", DISK_HOME) if folder == "." else (folder, DISK_LOGDIR)
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


def clock(there: float, before: float, after: float) -> Cell:
    """What the time between question and answer cannot explain."""
    offset = there - before if there < before else there - after if there > after else 0.0
    wrong = f"its clock is {abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'}; ages and times of workers would be wrong"
    return (f"{offset:+.1f} s", wrong if abs(offset) > CLOCK else "")


def show(console: Console, plan: Plan, cells: dict[str, dict[str, Cell]], seconds: float) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("host", no_wrap=True, overflow="ellipsis")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("code", "packages", "ports") else "right", no_wrap=True)
    reasons = []
    for key, row in cells.items():
        words = [Text(short(plan.hosts[key]))]
        for name in COLUMNS:
            shown, reason = row.get(name, ("", ""))
            words.append(Text(f"!{shown}" if reason else shown, style="bold red" if reason else ""))
            if reason:
                reasons.append(f"{short(plan.hosts[key])}: {name}: {reason}")
        table.add_row(*words)
    console.print(table)
    for reason in reasons:
        console.print(Text(reason, style="red"), soft_wrap=True)
    bad = len({key for key, row in cells.items() if any(reason for _, reason in row.values())})
    verdict = (
        f"{count(bad, 'host')} of {len(cells)} with something wrong" if bad else f"{count(len(cells), 'host')}, nothing wrong"
    )
    console.print(f"{verdict}; {sizes(plan)}; {seconds:.1f} s", soft_wrap=True)
