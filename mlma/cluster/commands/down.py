"""down: learners save a checkpoint and end, then everything else of the run ends and is taken away, on every host it touched.

A host that cannot be reached is named, stays in the state, and is cleaned by the next `down`. Not here: what happens on a host
(mlma/cluster/on_host/host_agent.py).
"""

from __future__ import annotations

import time
from typing import Any

from mlma.cluster.commands.dashboard import close
from mlma.cluster.context import Context, host_errors, plural
from mlma.cluster.planning.launch_plan import LEARNERS
from mlma.utils.child_process import STOP_SIGNAL

ACTOR_GRACE_SECONDS = 12.0  # seconds for an actor to end before it is killed
UNHANDLED_STOP_CODES = (
    -int(STOP_SIGNAL),
    128 + int(STOP_SIGNAL),
)  # exit codes of learners, or of mpirun, that did not know the signal yet
ANSWER_MARGIN_SECONDS = 20.0  # seconds for an answer beyond what was asked for


def down(context: Context) -> int:
    state = context.state
    if not state.touched:
        print("nothing to end: no host was touched, or all were left clean")
        return 0
    begun = time.monotonic()
    close(context)
    said = stop_learners(context)
    if said:
        print(said)
    request = context.request("stop", names=None, seconds=ACTOR_GRACE_SECONDS, final=True)
    answers = context.hosts.ask(dict.fromkeys(state.touched, request), ACTOR_GRACE_SECONDS + ANSWER_MARGIN_SECONDS)
    problems = host_errors(answers)
    for key, answer in answers.items():
        if isinstance(answer, dict):
            if answer.get("forced"):
                print(
                    f"{key}: ended by force: {plural(len(answer['forced']), 'process').replace('processs', 'processes')}"
                )
            if answer.get("left"):
                print(f"{key}: {answer['left']}")
            del state.touched[key]
    for key, problem in problems.items():
        print(f"{key}: could not be reached and may still run workers: {problem}")
    if not problems:
        state.up = False
        context.keys.remove()
    state.save()
    clean = len(answers) - len(problems)
    logs = f"logs stay in ~/.mlma/{context.plan.session}/*/logs"
    print(f"{plural(clean, 'host')} left clean, in {time.monotonic() - begun:.1f} s; {logs}")
    if problems:
        print(f"{plural(len(problems), 'host')} not; `down` again, when they are back, ends what is left there")
    return 1 if problems else 0


def stop_learners(context: Context) -> str:
    """Asks for a checkpoint and waits for it; what went wrong, or nothing."""
    seconds = context.options.stop_seconds
    head = context.plan.head.key
    if head not in context.state.touched:
        return ""
    print(f"learners: saving a checkpoint and ending (at most {seconds:.0f} s)", flush=True)
    request = context.request("stop", names=[LEARNERS], seconds=seconds + 5, final=False)
    answer = context.hosts.ask({head: request}, seconds + ANSWER_MARGIN_SECONDS)[head]
    if not isinstance(answer, dict):
        return f"{head}: learners could not be asked to save a checkpoint: {answer}"
    record = answer["records"].get(LEARNERS, {})
    if LEARNERS in answer["stopped"] and record.get("code") in UNHANDLED_STOP_CODES:
        return f"{head}: learners had not begun to train; there was nothing to save"
    if LEARNERS in answer["stopped"] and record.get("code") != 0:
        return f"{head}: learners ended with code {record.get('code')} when asked to save a checkpoint; `logs {LEARNERS}` says why"
    return ""


def stop_workers(context: Context, names: list[str]) -> dict[str, Any]:
    """Ends these workers and nothing else."""
    requests = {}
    for key in context.plan.hosts:
        here = [window.name for window in context.plan.on(key) if window.name in names]
        if here:
            requests[key] = context.request("stop", names=here, seconds=ACTOR_GRACE_SECONDS, final=False)
    return context.hosts.ask(requests, ACTOR_GRACE_SECONDS + ANSWER_MARGIN_SECONDS)
