"""check: whether the run can be started on its hosts. Prints a row for each host, then the problems, one a line.

Every host is compared with this machine, since a run needs the same code and packages everywhere. Changes nothing that
lasts; the connections between hosts are tried by mlma/cluster/commands/network_check.py.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlma.cluster.commands.network_check import NetworkCheck
from mlma.cluster.context import Context, display_name, plural, summarize_plan
from mlma.cluster.planning.hosts import Host
from mlma.cluster.planning.launch_plan import Plan
from mlma.cluster.planning.workers_csv import Worker
from mlma.cluster.remote.code_files import code_files, is_this_code
from mlma.cluster.remote.host_pool import call_on_host
from mlma.cluster.remote.ssh import Connection
from mlma.cluster.remote.ssh_login import HostError
from mlma.utils.code_layout import supported_pythons

PACKAGES = ("tensorflow", "tensorflow-cpu", "dm-sonnet", "dm-tree", "numpy", "gymnasium", "ale-py", "rich")
LEARNER_PACKAGES = ("horovod",)
MIN_HOME_BYTES, MIN_LOGDIR_BYTES = 5e7, 1e9  # free space that logs and checkpoints need
CLOCK_TOLERANCE_SECONDS = 2.0
MAX_SHOWN_FILES = 3
QUICK_SECONDS = 0.5  # in which hosts accept a connection; what is tried between hosts does not wait for others
COLUMNS = ("ssh", "python", "code", "packages", "ports", "network", "disk", "clock", "gpu")
TEXT_COLUMNS = ("code", "packages", "ports", "network")  # aligned left
Cell = tuple[str, str]  # the text, and the problem that it stands for or ""


def check(context: Context) -> int:
    """Exit code 1 if any host has a problem."""
    started = time.monotonic()
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in code_files().items()}
    plan = context.plan

    def assess(host: Host, connection: Connection) -> dict[str, Cell]:
        connected = time.monotonic() - started
        compared = {} if host.local and is_this_code(host.folder) else digests
        request = preflight_request(context, host) | {"files": [] if host.image else list(compared)}
        try:
            before = time.time()
            answer = call_on_host(host, connection, request, context.hosts.command_seconds, "preflight")
            after = time.time()
        except HostError as error:
            return {"ssh": (f"{connected:.1f} s", ""), "python": ("none", str(error))}
        cells = assess_host(host, answer, compared, plan.learners_on(host))
        return cells | {"ssh": (f"{connected:.1f} s", ""), "clock": clock_cell(answer["clock"], before, after)}

    def assess_all(keys: list[str]) -> bool:
        """Whether any of these hosts answers."""
        others_answered = any("clock" in row for row in rows.values())
        answers = context.hosts.for_each(keys, assess, others_answered)
        rows.update({key: {"ssh": ("none", str(a))} if isinstance(a, HostError) else a for key, a in answers.items()})
        return any("clock" in rows[key] for key in keys)

    def check_network() -> dict[str, list[str]]:
        return NetworkCheck(context, [key for key, row in rows.items() if "clock" in row]).run()

    rows: dict[str, dict[str, Cell]] = {key: {} for key in plan.hosts}
    silent = context.hosts.silent(plan.hosts, QUICK_SECONDS)
    assess_all([key for key in plan.hosts if key not in silent])
    blocked = check_network()  # before a dead host has used up the patience with it
    if assess_all(silent):
        blocked = check_network()
    for key, row in rows.items():
        if "clock" in row:
            row["network"] = ("blocked", "; ".join(blocked[key])) if key in blocked else ("open", "")
    print_table(Console(highlight=False), plan, rows, time.monotonic() - started)
    return 1 if any(problem for row in rows.values() for _, problem in row.values()) else 0


def preflight_request(context: Context, host: Host) -> dict[str, Any]:
    """What mlma/cluster/on_host/preflight.py looks at on this host, apart from the files."""
    plan, options = context.plan, context.options
    learners = [learner for learner in plan.learners if learner.worker.host == host.key]
    uses_horovod = learners and len(plan.learners) > 1
    uses_ssh = plan.tunnelled_learners(host.key) or (plan.spans_hosts() and host == plan.head)
    return {
        "id": context.state.id,
        "folder": host.folder,
        "packages": [] if host.image else [*PACKAGES, *(LEARNER_PACKAGES if uses_horovod else ())],
        "tools": ["tmux", *(["ssh"] if uses_ssh else []), *plan.container_engines(host), *plan.mpirun_on(host)],
        "ports": [[learner.worker.ip, learner.port] for learner in learners if options.channel != "ssh"],
        "folders": [".", *([context.logdir()] if host == plan.head else [])],
        "gpus": any(learner.worker.cuda_visible_devices not in ("", "-1") for learner in learners),
    }


def assess_host(host: Host, answer: dict[str, Any], digests: dict[str, str], learners: list[Worker]) -> dict[str, Cell]:
    """Column -> cell, except ssh and clock. `digests` are those of the code on this machine, none
    if that is what the host runs."""
    return {
        "python": _python_cell(host, answer["python"], answer["missing_tools"]),
        "code": ("image", "") if host.image else _code_cell(answer["code"], digests, host.folder),
        "packages": ("image", "") if host.image else _packages_cell(answer["packages"]),
        "ports": _ports_cell(answer["port_errors"], answer["run_is_present"]),
        "disk": _disk_cell(answer["free_bytes"]),
        "gpu": _gpu_cell(answer["gpus"], learners),
    }


def _python_cell(host: Host, version: str, missing_tools: list[str]) -> Cell:
    if missing_tools:
        return version, f"not installed: {', '.join(missing_tools)}"
    allowed = supported_pythons()
    fits = host.image or version.startswith(tuple(f"{minor}." for minor in allowed))
    return version, "" if fits else f"Python {version}; must be {allowed[0]} to {allowed[-1]}"


def _code_cell(remote: dict[str, str], local: dict[str, str], folder: str) -> Cell:
    if not local:
        return "same", ""
    missing = [name for name in local if not remote[name]]
    different = [name for name in local if remote[name] and remote[name] != local[name]]
    if len(missing) == len(local):
        return "none", f"no code in {folder} (--sync copies it; the column folder names another place)"
    if names := [*different, *missing]:
        others = len(names) - MAX_SHOWN_FILES
        shown = f"{', '.join(names[:MAX_SHOWN_FILES])}{f' and {others} more' if others > 0 else ''}"
        return "differs", f"differs from this machine in {shown} (--sync copies it)"
    return "same", ""


def _packages_cell(remote: dict[str, str]) -> Cell:
    def local_version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return ""

    problems = []
    tensorflow = remote.get("tensorflow") or remote.get("tensorflow-cpu") or ""
    local_tensorflow = local_version("tensorflow") or local_version("tensorflow-cpu")
    if tensorflow != local_tensorflow and local_tensorflow:
        problems.append(f"tensorflow {tensorflow or 'missing'}, here {local_tensorflow}")
    for name, version in remote.items():
        local = local_version(name)
        if name not in ("tensorflow", "tensorflow-cpu") and (not version or (local and version != local)):
            problems.append(f"{name} {version or 'missing'}{f', here {local}' if local else ''}")
    return (f"{len(problems)} differ" if problems else "same", "; ".join(problems))


def _ports_cell(errors: dict[str, str], run_is_present: bool) -> Cell:
    """A port that is in use is no problem if the run itself uses it."""
    problems = {
        address: error for address, error in errors.items() if error and not (run_is_present and "in use" in error)
    }
    if problems:
        return "taken", "; ".join(f"cannot listen at {address}: {error}" for address, error in problems.items())
    if any(errors.values()):
        return "own run", ""
    return "free" if errors else "-", ""


def _disk_cell(free: dict[str, int]) -> Cell:
    """The home directory, and on the first learner's host the logdir."""
    problems = []
    for folder, available in free.items():
        name, required = ("home directory", MIN_HOME_BYTES) if folder == "." else (folder, MIN_LOGDIR_BYTES)
        if available < 0:
            problems.append(f"{name} is not writable")
        elif available < required:
            problems.append(f"{name} has {available / 1e9:.2f} GB free; must be at least {required / 1e9:g} GB")
    least = min(free.values())
    return ("no" if least < 0 else f"{least / 1e9:.1f}G", "; ".join(problems))


def _gpu_cell(count: int, learners: list[Worker]) -> Cell:
    numbers = [n for worker in learners for n in worker.cuda_visible_devices.split(",") if n.isdigit()]
    missing = [n for n in numbers if int(n) >= count]
    problem = f"has {plural(count, 'GPU')}; no GPU has number {missing[0]}" if missing else ""
    return str(count) if numbers else "-", problem


def clock_cell(remote: float, before: float, after: float) -> Cell:
    """The offset of the host's clock that the time between request and answer cannot explain."""
    offset = remote - before if remote < before else remote - after if remote > after else 0.0
    direction = "ahead" if offset > 0 else "behind"
    problem = f"{abs(offset):.1f} s {direction}; `status` would show wrong times"
    return (f"{offset:+.1f} s", problem if abs(offset) > CLOCK_TOLERANCE_SECONDS else "")


def print_table(console: Console, plan: Plan, rows: dict[str, dict[str, Cell]], seconds: float) -> None:
    """A row for each host; under the table, each problem and a summary."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("host", no_wrap=True, overflow="ellipsis")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in TEXT_COLUMNS else "right", no_wrap=True)
    problems = []
    for key, row in rows.items():
        host = display_name(plan.hosts[key])
        cells = [Text(host)]
        for name in COLUMNS:
            text, problem = row.get(name, ("", ""))
            cells.append(Text(f"!{text}" if problem else text, style="bold red" if problem else ""))
            if problem:
                problems.append(f"{host}: {name}: {problem}")
        table.add_row(*cells)
    console.print(table)
    for problem in problems:
        console.print(Text(problem, style="red"), soft_wrap=True)
    bad = sum(any(problem for _, problem in row.values()) for row in rows.values())
    verdict = (
        f"problems on {bad} of {plural(len(rows), 'host')}" if bad else f"{plural(len(rows), 'host')}, no problems"
    )
    console.print(f"{verdict}; {summarize_plan(plan)}; {seconds:.1f} s", soft_wrap=True)
