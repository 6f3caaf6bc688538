"""up, scale, restart: makes the hosts run what the plan says. What runs already is left alone; what was killed comes back.

First learners' hosts are asked for their keys and told ours; then every host starts its windows, all at once. Not here: what
happens on a host (mlma/cluster/on_host/host_agent.py), ending the run (mlma/cluster/commands/down.py).
"""

from __future__ import annotations

import re
import time
from typing import Any

from mlma.cluster.commands.down import stop_learners, stop_workers
from mlma.cluster.context import Context, host_errors, plural
from mlma.cluster.planning.launch_plan import LEARNERS, Host, SupervisedProcess, container_engines, worker_kind
from mlma.cluster.remote.credentials import authorized_keys_lines, credential_files
from mlma.cluster.remote.host_pool import ON_HOST_SOURCES, call_host_agent
from mlma.cluster.remote.ssh import Connection


def up(context: Context) -> int:
    """0 if everything runs, 1 if a host is missing; the reasons are printed."""
    begun = time.monotonic()
    plan, state = context.plan, context.state
    state.touched |= plan.hosts
    state.up = True
    state.save()
    context.keys.make()
    learner_hosts = list(dict.fromkeys(learner.worker.host for learner in plan.learners))
    host_keys = _exchange_keys(context, learner_hosts)
    if problems := host_errors(host_keys):
        for key, problem in problems.items():
            print(f"{key}: {problem}")
        print("a learner's host is missing; nothing was started")
        return 1
    supervise = (ON_HOST_SOURCES / "supervisor.py").read_text()

    def start(host: Host, connection: Connection) -> dict[str, Any]:
        return call_host_agent(
            host, connection, _start_request(context, host, host_keys, supervise), context.hosts.seconds, "host_agent"
        )

    answers = context.hosts.each({**state.touched, **plan.hosts}, start)
    return _report(context, answers, time.monotonic() - begun)


def _exchange_keys(context: Context, learner_hosts: list[str]) -> dict[str, Any]:
    """The host keys of the learners' hosts, which let in what the run needs from now on; a Fault where that failed."""
    lines = authorized_keys_lines(context.plan, context.keys, context.state.id)

    def introduce(host: Host, connection: Connection) -> list[str]:
        if host.key in lines:
            request = context.request("authorize", lines=lines[host.key])
            call_host_agent(host, connection, request, context.hosts.seconds, "host_agent")
        return connection.host_keys()

    return context.hosts.each(learner_hosts, introduce)


def _start_request(context: Context, host: Host, host_keys: dict[str, list[str]], supervise: str) -> dict[str, Any]:
    plan = context.plan
    windows = plan.on(host.key)
    files = credential_files(plan, context.keys, host, host_keys) if _has_workers(context, host) else {}
    tools = ["tmux"] if windows else []
    tools += container_engines(plan, host)
    tools += (
        ["ssh"] if any(w.name.startswith("tunnel") for w in windows) or (plan.spread() and host == plan.head) else []
    )
    return context.request(
        "start",
        files=files | ({"supervisor.py": (supervise, 0o600)} if windows else {}),
        windows=[window.spec(plan.session) for window in windows],
        prune=True,
        python=list(host.python),
        tools=tools,
        paths=sorted({path for window in windows for path in _code_paths(window)}),
    )


def _has_workers(context: Context, host: Host) -> bool:
    """Learners that mpirun starts here have no window."""
    return bool(context.plan.on(host.key)) or any(learner.worker.host == host.key for learner in context.plan.learners)


def _code_paths(window: SupervisedProcess) -> list[str]:
    """Paths that a command needs, on its host."""
    if window.image:
        return []
    first = [word for word in window.words if word.endswith("/experiment.py")][:1]
    return [*first, window.words[0]] if "/" in window.words[0] else first


def _report(context: Context, answers: dict[str, Any], seconds: float) -> int:
    problems = host_errors(answers)
    good = {key: answer for key, answer in answers.items() if key not in problems}
    problems |= {key: answer["problem"] for key, answer in good.items() if answer.get("problem")}
    started = sorted(name for answer in good.values() for name in answer.get("started", []))
    already = sorted(name for answer in good.values() for name in answer.get("already", []))
    stopped = sorted(name for answer in good.values() for name in answer.get("stopped", []))
    differ = sorted(name for answer in good.values() for name in answer.get("differ", []))
    for key, problem in sorted(problems.items()):
        print(f"{key}: {problem}")
    words = [f"started {_summarize_names(started)}"] if started else []
    words += [f"already running: {_summarize_names(already)}"] if already else []
    words += [f"stopped {_summarize_names(stopped)}"] if stopped else []
    print(f"{'; '.join(words) or 'nothing started'}; {plural(len(good), 'host')}, {seconds:.1f} s")
    if differ:
        print(
            f"run on with the flags that they were started with: {_summarize_names(differ)}; `restart` gives them the new ones"
        )
    if problems:
        print(f"{plural(len(problems), 'host')} missing; `up` again starts what is missing")
    head = context.plan.head
    attach = f"tmux attach -t {context.plan.session}"
    where = attach if head.local else f"ssh -t {f'-p {head.port} ' * (head.port != 22)}{head.user}@{head.ip} {attach}"
    print(
        f"look: python run_experiment_mm_raw.py status --watch --logdir={context.call.config.run.logdir}   or   {where}"
    )
    return 1 if problems else 0


def _summarize_names(names: list[str]) -> str:
    """Few by name, many by number."""
    if len(names) <= 8:
        return ", ".join(sorted(names, key=_sort_key))
    kinds: dict[str, int] = {}
    for name in sorted(names, key=_sort_key):
        kinds[worker_kind(name)] = kinds.get(worker_kind(name), 0) + 1
    return ", ".join(name if name == LEARNERS else plural(number, name) for name, number in kinds.items())


def _sort_key(name: str) -> tuple[str, int]:
    word, _, number = name.partition("-")
    return (" " if name == LEARNERS else word), int(number or 0)


def scale(context: Context) -> int:
    return up(context)


def restart(context: Context) -> int:
    """One actor, all actors, or the learners, which takes actors with it: a learner that ends tells them that it is over."""
    names = [window.name for window in context.plan.windows]
    operands = context.call.operands
    target = operands[0] if len(operands) == 1 else ""
    target = LEARNERS if re.fullmatch(r"learner(-\d+)?", target) else target  # they live and end together
    if target == "actors":
        chosen = [name for name in names if name.startswith("actor-")]
    elif target in names and target != LEARNERS:
        chosen = [target]
    elif target == LEARNERS:
        chosen = names
    else:
        raise ValueError(
            f"restart {' '.join(operands)}: must be restart actors, learners, or one of: {', '.join(names)}"
        )
    if target == LEARNERS:
        failed = stop_learners(context)
        if failed:
            print(failed)
            return 1
    stop_workers(context, chosen)
    return up(context)
