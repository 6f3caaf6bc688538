"""up, scale, restart: make the hosts run what the plan says. A running worker is left alone, a missing one started.

First the learners' hosts present their keys and get the run's; then all hosts start their workers at once. Not here:
what happens on a host (mlma/cluster/on_host/host_agent.py), ending the run (mlma/cluster/commands/down.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable
from typing import Any

from mlma.cluster.commands.down import ANSWER_MARGIN_SECONDS, WORKER_STOP_SECONDS, stop_learners, stop_request
from mlma.cluster.context import Context, attach_text, host_errors, plural
from mlma.cluster.planning.hosts import Host
from mlma.cluster.planning.worker_commands import LEARNERS, SupervisedProcess, worker_kind
from mlma.cluster.remote.credentials import HostIdentity, authorized_keys_lines, credential_files
from mlma.cluster.remote.host_pool import HELPERS, ON_HOST_SOURCES, call_on_host
from mlma.cluster.remote.ssh import Connection

MAX_LISTED_NAMES = 8


def up(context: Context, restarted: Collection[str] = ()) -> int:
    """Exit code 1 if a host is missing; the reasons are printed. Each host stops its `restarted` workers first."""
    started = time.monotonic()
    plan, state = context.plan, context.state
    state.ending = False
    state.save()
    every = {**state.contacted_hosts, **plan.hosts}
    context.hosts.connect_ahead(every)
    context.credentials.create()
    identities = exchange_keys(context)
    if problems := host_errors(identities):
        for key, problem in problems.items():
            print(f"{key}: {problem}")
        print("a learner's host is missing; nothing was started")
        return 1
    answers = start_workers(context, identities, every, restarted)
    return _report(context, answers, time.monotonic() - started)


def start_workers(
    context: Context, identities: dict[str, HostIdentity], hosts: Iterable[str], restarted: Collection[str] = ()
) -> dict[str, Any]:
    """Makes each of these hosts run what the plan says. Returns the answers of their agents, by host key."""
    names = ("supervisor", *HELPERS["supervisor"])
    supervisor = {f"{name}.py": (ON_HOST_SOURCES / f"{name}.py").read_text() for name in names}

    def start(host: Host, connection: Connection) -> dict[str, Any]:
        if stop := stop_request(context, host.key, restarted):  # each host on its own clock
            call_on_host(host, connection, stop, WORKER_STOP_SECONDS + ANSWER_MARGIN_SECONDS)
        context.remember(host)
        request = _start_request(context, host, identities, supervisor)
        return call_on_host(host, connection, request, context.hosts.command_seconds)

    return context.hosts.for_each(hosts, start)


def scale(context: Context) -> int:
    """Changes the number of actors; the plan already has the new one."""
    return up(context)


def restart(context: Context) -> int:
    """Restarts one actor, all actors, or the learners with all actors, so that all have the same flags."""
    names = [process.name for process in context.plan.processes]
    operands = context.invocation.operands
    target = operands[0] if len(operands) == 1 else ""
    if re.fullmatch(r"learner(-\d+)?", target):
        target = LEARNERS  # they start and end together
    if target == "actors":
        chosen = [name for name in names if name.startswith("actor-")]
    elif target in names and target != LEARNERS:
        chosen = [target]
    elif target == LEARNERS:
        chosen = names
    else:
        raise ValueError(f"restart {' '.join(operands)}: must be actors, learners, or one of {', '.join(names)}")
    if target == LEARNERS:
        context.hosts.connect_ahead(context.plan.hosts)
        problem, have_ended = stop_learners(context)
        if problem:
            print(problem)
        if not have_ended:
            return 1
    return up(context, restarted=chosen)


def exchange_keys(context: Context) -> dict[str, Any]:
    """Adds the run's keys to authorized_keys on the learners' hosts. Returns a HostIdentity or a HostError of each."""
    learner_hosts = [learner.worker.host for learner in context.plan.learners]
    lines = authorized_keys_lines(context.plan, context.credentials, context.state.id)

    def exchange(host: Host, connection: Connection) -> HostIdentity:
        home = ""
        context.remember(host)
        if host.key in lines:
            request = context.request("authorize", lines=lines[host.key])
            home = call_on_host(host, connection, request, context.hosts.command_seconds)["home"]
        return HostIdentity(connection.host_keys(), home)

    return context.hosts.for_each(learner_hosts, exchange)


def _start_request(
    context: Context, host: Host, identities: dict[str, HostIdentity], supervisor: dict[str, str]
) -> dict[str, Any]:
    """`supervisor` has the sources of the program that runs in each tmux window."""
    plan = context.plan
    processes = plan.processes_on(host.key)
    files = {}
    if processes or plan.learners_on(host):  # learners that mpirun starts on this host have no process in the plan
        files = credential_files(plan, context.credentials, host, identities)
    if processes:
        files |= {name: (source, 0o600) for name, source in supervisor.items()}
    uses_ssh = any(process.name.startswith("tunnel") for process in processes)
    uses_ssh = uses_ssh or (plan.spans_hosts() and host == plan.head)
    tools = [*(["tmux"] if processes else []), *plan.container_engines(host), *(["ssh"] if uses_ssh else [])]
    tools += plan.mpirun_on(host)
    return context.request(
        "start",
        logdir=context.logdir() if host == plan.head else "",
        files=files,
        specs=[process.spec(plan.session) for process in processes],
        python=list(host.python),
        tools=tools,
        paths=sorted({path for process in processes for path in _code_paths(process)}),
    )


def _code_paths(process: SupervisedProcess) -> list[str]:
    """Paths on the host that the command needs."""
    if process.image:
        return []
    script = [word for word in process.argv if word.endswith("/experiment.py")][:1]
    return [*script, process.argv[0]] if "/" in process.argv[0] else script


def _report(context: Context, answers: dict[str, Any], seconds: float) -> int:
    problems = host_errors(answers)
    answered = {key: answer for key, answer in answers.items() if key not in problems}
    problems |= {key: answer["problem"] for key, answer in answered.items() if answer.get("problem")}

    def names(field: str) -> list[str]:
        found = (name for answer in answered.values() for name in answer.get(field, []))
        return sorted(name for name in found if worker_kind(name) != "tunnel")

    for key, problem in sorted(problems.items()):
        print(f"{key}: {problem}")
    full = [f"{key}: {line}" for key, answer in sorted(answered.items()) for line in answer.get("disks", [])]
    print(*full, sep="\n", end="\n" * bool(full))
    labels = {"started": "started ", "running": "already running: ", "stopped": "stopped "}
    summary = [f"{label}{summarize_names(names(field))}" for field, label in labels.items() if names(field)]
    print(f"{'; '.join(summary) or 'nothing started'}; {plural(len(answered), 'host')}, {seconds:.1f} s")
    if changed := names("changed"):
        print(f"still running with their earlier flags: {summarize_names(changed)}; `restart` applies the new ones")
    if problems:
        print(f"{plural(len(problems), 'host')} missing; `up` again starts the rest")
    status = f"python run_experiment_mm_raw.py status --watch --logdir={context.invocation.config.run.logdir}"
    print(f"to watch: {status}   or   {attach_text(context.plan, context.plan.head)}")
    return 1 if problems or full else 0


def summarize_names(names: list[str]) -> str:
    """A few names are listed; more are counted by kind."""
    names = sorted(names, key=_sort_key)
    if len(names) <= MAX_LISTED_NAMES:
        return ", ".join(names)
    counts: dict[str, int] = {}
    for name in names:
        counts[worker_kind(name)] = counts.get(worker_kind(name), 0) + 1
    return ", ".join(kind if kind == LEARNERS else plural(count, kind) for kind, count in counts.items())


def _sort_key(name: str) -> tuple[str, int]:
    kind, _, number = name.partition("-")
    return (" " if name == LEARNERS else kind), int(number or 0)
