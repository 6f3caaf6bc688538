"""down: learners save a checkpoint and end; then everything that the run started is ended and removed, on all hosts.

A host that cannot be reached is reported and stays in the state, so that the next `down` cleans it; `--forget` is for
one that is gone for good. Not here: what happens on a host (mlma/cluster/on_host/host_agent.py).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Any

from mlma.cluster.commands.dashboard import close
from mlma.cluster.context import Context, display_name, host_errors, plural
from mlma.cluster.planning.hosts import TMUX_SOCKET, run_folder
from mlma.cluster.planning.worker_commands import LEARNERS
from mlma.utils.child_process import STOP_SIGNAL
from mlma.utils.user_text import shown

WORKER_STOP_SECONDS = 12.0  # for workers other than learners to end before they are killed
SUPERVISOR_SECONDS = 5.0  # for the learners' supervisor, in addition to --stop_seconds
ANSWER_MARGIN_SECONDS = 20.0  # for an answer, in addition to the time that the request takes
# Exit codes of learners, or of their mpirun, that did not handle the signal yet.
UNHANDLED_STOP_CODES = (-int(STOP_SIGNAL), 128 + int(STOP_SIGNAL))


def down(context: Context) -> int:
    """Exit code 1 if a host could not be reached."""
    state = context.state
    for key in _hosts_to_forget(context):
        del state.contacted_hosts[key]
        print(f"{key}: forgotten; if it comes back, end what is left there: {_clean_up_by_hand(context, key)}")
    state.ending = True  # also if this is interrupted, or does not reach every host
    state.save()
    close(context)
    if not state.contacted_hosts:
        _mark_as_ended(context)
        print("nothing to end: no host has anything of this run")
        return 0
    started = time.monotonic()
    context.hosts.connect_ahead(state.contacted_hosts)
    problem, _ = stop_learners(context)
    if problem:
        print(problem)
    answers = stop_all(context, state.contacted_hosts, final=True)
    problems = host_errors(answers)
    for key, answer in answers.items():
        if isinstance(answer, dict):
            if answer.get("killed"):
                print(f"{key}: {plural(len(answer['killed']), 'process')} ended by force")
            if answer.get("kept"):
                print(f"{key}: {answer['kept']}")
            del state.contacted_hosts[key]
    for key, problem in problems.items():
        print(f"{key}: unreachable, may still run workers: {problem}")
    if problems:
        state.save()
    else:
        _mark_as_ended(context)
    clean = plural(len(answers) - len(problems), "host")
    logs = f"~/.mlma/{context.plan.session}/*/logs"
    print(f"{clean} left clean in {time.monotonic() - started:.1f} s; logs remain in {logs}")
    if problems:
        advice = "run `down` again when reachable; --forget=HOST if one is gone for good"
        print(f"{plural(len(problems), 'host')} not cleaned; {advice}")
    return 1 if problems else 0


def _mark_as_ended(context: Context) -> None:
    context.state.up, context.state.away = False, []
    context.credentials.remove()
    context.state.save()


def _hosts_to_forget(context: Context) -> list[str]:
    """Keys of the hosts that --forget names; ValueError for a name that is none of them."""
    contacted, found = context.state.contacted_hosts, []
    for name in filter(None, context.options.forget.split(",")):
        keys = [key for key, host in contacted.items() if name in (key, display_name(host), f"{host.user}@{host.ip}")]
        keys = keys or [key for key, host in contacted.items() if name == host.ip]
        if not keys:
            known = ", ".join(contacted) or "none, nothing is left of this run"
            raise ValueError(f"--forget={shown(name)}: no host of this run; allowed: {known}")
        found += [key for key in keys if key not in found]
    return found


def _clean_up_by_hand(context: Context, key: str) -> str:
    """Commands for a host that the frontend does not contact any more."""
    folder = run_folder(context.plan.session, key)
    return f"tmux -S ~/{folder}/{TMUX_SOCKET} kill-server; rm -r ~/{folder}"


def stop_learners(context: Context) -> tuple[str, bool]:
    """Makes the learners save a checkpoint and end. Returns what failed, or nothing, and whether they have ended."""
    seconds = context.options.stop_seconds
    head = context.plan.head.key
    if head not in context.state.contacted_hosts:
        return "", True
    print(f"learners: saving a checkpoint and ending (at most {seconds:.0f} s)", flush=True)
    request = context.request("stop", names=[LEARNERS], seconds=seconds + SUPERVISOR_SECONDS, final=False)
    answer = context.hosts.request({head: request}, seconds + ANSWER_MARGIN_SECONDS)[head]
    if not isinstance(answer, dict):
        return f"{head}: no checkpoint was requested from the learners: {answer}", False
    code = answer["records"].get(LEARNERS, {}).get("code")
    if LEARNERS not in answer["stopped"] or code == 0:
        return "", True
    if code in UNHANDLED_STOP_CODES:
        return f"{head}: learners had not started to train; there was nothing to save", True
    return f"{head}: learners ended with code {code} instead of saving a checkpoint; see `logs {LEARNERS}`", True


def stop_all(context: Context, host_keys: Iterable[str], final: bool) -> dict[str, Any]:
    """Host -> its answer to the request to stop all workers there; a `final` stop also removes what the run left."""
    request = context.request("stop", names=None, seconds=WORKER_STOP_SECONDS, final=final)
    return context.hosts.request(dict.fromkeys(host_keys, request), WORKER_STOP_SECONDS + ANSWER_MARGIN_SECONDS)


def stop_request(context: Context, host_key: str, names: Collection[str]) -> dict[str, Any] | None:
    """The request that stops those of these workers that are on a host, and nothing else; None if there are none."""
    if host_key not in context.state.contacted_hosts:
        return None
    here = [process.name for process in context.plan.processes_on(host_key) if process.name in names]
    return context.request("stop", names=here, seconds=WORKER_STOP_SECONDS, final=False) if here else None
