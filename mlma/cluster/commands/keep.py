"""keep: stays, and makes hosts that come back run their workers again; moves actors of a host that stays away.

Each host is asked for its status on its own clock. The lock of the run is held only while something is changed, so
other frontends can work on the run; what they change is read again. Not here: how workers are started
(mlma/cluster/commands/up.py), where moved actors run (mlma/cluster/planning/worker_sets.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from typing import Any

from mlma.cluster.commands.down import stop_all
from mlma.cluster.commands.status import ANSWER_TIMEOUT_SECONDS, NoAnswerYet, StatusPoller
from mlma.cluster.commands.up import exchange_keys, start_workers, summarize_names
from mlma.cluster.context import Context, display_name, host_errors, make_context
from mlma.cluster.frontend_lock import RunIsLockedError, run_lock
from mlma.cluster.planning.worker_commands import LEARNERS, worker_kind
from mlma.cluster.remote.ssh_login import HostError
from mlma.cluster.state import load_state
from mlma.utils.user_text import printable

ENDED_BY_A_FAULT = ("gone", "off")  # states of workers that are started again; others only if their host came back
LONGEST_PAUSE_SECONDS = 60.0  # between two attempts to start workers on a host
HEALTHY_SECONDS = 60.0  # after an attempt, after which the next pause is short again


def keep(context: Context) -> int:
    """Ends with code 0 once training is over, the run is down, or on Ctrl-C, which leaves the run as it is."""
    keeper = Keeper(context)
    try:
        while not (end := keeper.look()):
            time.sleep(context.options.every_seconds)
    except KeyboardInterrupt:
        end = "interrupted; the run goes on"
    say(end)
    os._exit(0)  # threads that wait for a dead host would delay a normal exit


class Keeper:
    """What is known about the hosts from one look at them to the next."""

    def __init__(self, context: Context) -> None:
        context.hosts.shows_progress = False
        self.context, self._poller = context, StatusPoller(context)
        self._version: tuple[int, ...] = ()  # of run.json, when it was read
        self._silent_since: dict[str, float] = {}  # host key -> time of the first error
        self._returned: set[str] = set()  # hosts that answer again, or were rebooted; until workers are started there
        self._attempts: dict[str, tuple[float, float]] = {}  # host key -> time of the last one, pause after it
        self._failed: set[tuple[str, str]] = set()  # workers and reasons that have been named

    def look(self) -> str:
        """Asks all hosts and starts what is missing. Returns why there is nothing more to do, or nothing."""
        if not self._read_changes():
            return "the run is down"
        plan = self.context.plan
        requests = {key: self.context.request("status") for key in plan.hosts}
        answers = self._poller.poll(requests, max(self.context.options.connect_seconds, ANSWER_TIMEOUT_SECONDS))
        answered = {key: answer for key, answer in answers.items() if isinstance(answer, dict)}
        self._note_hosts(answers)
        self._name_failed(answered)
        if plan.head.key in answered and _states(answered[plan.head.key], [LEARNERS]) == {"done"}:
            return "training is over"
        if all(learner.worker.host in answered for learner in plan.learners):  # actors cannot start without them
            self._change(answered)
        return ""

    def _read_changes(self) -> bool:
        """Reads the state of the run again if another frontend has changed it. False if the run is down."""
        version = self._version_on_disk()
        if version == self._version:
            return True
        state = load_state(self.context.invocation.config.run.logdir)
        if not state.up or state.ending:
            return False
        self._version = version
        self._plan_again()
        return True

    def _plan_again(self) -> None:
        self.context.hosts.close()
        self.context = make_context(self.context.invocation)
        self.context.hosts.shows_progress = False
        self._forget_answers()

    def _forget_answers(self) -> None:
        """Asks all hosts again: what they said before a change would be changed a second time."""
        self._poller.close()
        self._poller = StatusPoller(self.context)

    def _version_on_disk(self) -> tuple[int, ...]:
        try:
            status = self.context.state.path.stat()
        except OSError:
            return (0,)
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _note_hosts(self, answers: dict[str, Any]) -> None:
        """Says which hosts stop or begin to answer."""
        for key, answer in answers.items():
            if isinstance(answer, HostError):
                if key not in self._silent_since and not isinstance(answer, NoAnswerYet):
                    self._silent_since[key] = time.monotonic()
                    say(f"{self._name(key)}: {answer}")
            elif self._silent_since.pop(key, None) is not None:
                say(f"{self._name(key)}: answers again")
                self._returned.add(key)
            elif any(record.get("boot", answer["boot"]) != answer["boot"] for record in answer["records"].values()):
                self._returned.add(key)

    def _name_failed(self, answered: dict[str, Any]) -> None:
        """Names each worker that has crashed too often, once."""
        for key, answer in answered.items():
            for name, record in answer["records"].items():
                failure = name, record.get("reason", "")
                if record["state"] == "failed" and failure not in self._failed:
                    self._failed.add(failure)
                    say(f"{self._name(key)}: {name} failed: {failure[1]}")

    # -- changes

    def _change(self, answered: dict[str, Any]) -> None:
        """Starts or moves workers where that is due, unless another frontend is at work on the run."""
        back = [key for key in self.context.state.away if key in answered]
        lost = self._lost_hosts(answered)
        due = self._due_hosts(answered)
        if not (back or lost or due):
            return
        try:
            with run_lock("keep", self.context.invocation.config.run.logdir):
                if self._version_on_disk() != self._version:
                    return  # another frontend was faster: look again first
                try:
                    if back or lost:
                        self._move_actors(answered, back, lost)
                    else:
                        self._start(due)
                finally:
                    self._forget_answers()
                    self._version = self._version_on_disk()
        except RunIsLockedError:
            return

    def _due_hosts(self, answered: dict[str, Any]) -> list[str]:
        """Hosts on which workers have to be started now."""
        plan, now = self.context.plan, time.monotonic()
        due = set()
        for key, answer in answered.items():
            states = _states(answer, [process.name for process in plan.processes_on(key)])
            if key in self._returned or states & set(ENDED_BY_A_FAULT):
                due.add(key)
            elif now - self._attempts.get(key, (now, 0))[0] > HEALTHY_SECONDS:
                del self._attempts[key]
        if any(plan.learners_on(plan.hosts[key]) for key in due & self._returned):
            due.add(plan.head.key)  # mpirun, which starts that learner, may have given up
        waits = {key for key, (attempt, pause) in self._attempts.items() if now < attempt + pause}
        return sorted(due - waits)

    def _start(self, keys: Iterable[str]) -> None:
        """Makes these hosts run what the plan says, as `up` does."""
        keys = list(keys)
        for key in keys:
            pause = 2 * self._attempts.get(key, (0.0, self.context.options.every_seconds / 2))[1]
            self._attempts[key] = time.monotonic(), min(pause, LONGEST_PAUSE_SECONDS)
        identities = exchange_keys(self.context)
        if problems := host_errors(identities):
            for key, problem in problems.items():
                say(f"{self._name(key)}: {problem}; nothing was started")
            return
        for key, answer in start_workers(self.context, identities, keys).items():
            problem = str(answer) if isinstance(answer, HostError) else answer["problem"]
            if problem:
                say(f"{self._name(key)}: {problem}")
                continue
            self._returned.discard(key)
            for label, field in (("started", "started"), ("ended", "stopped")):
                if names := [name for name in answer[field] if worker_kind(name) != "tunnel"]:
                    say(f"{self._name(key)}: {label} {summarize_names(names)}")

    # -- moving actors

    def _lost_hosts(self, answered: dict[str, Any]) -> list[str]:
        """Hosts whose actors have to be moved now."""
        plan, seconds, state = self.context.plan, self.context.options.move_actors_after, self.context.state
        if not seconds:
            return []
        rows = {worker.host for worker in state.workers if worker.job == "actor"}
        if not any(key in answered and key not in state.away for key in rows):
            return []
        silent = [key for key, since in self._silent_since.items() if time.monotonic() - since >= seconds]
        return [key for key in silent if plan.processes_on(key) and not plan.learners_on(plan.hosts[key])]

    def _move_actors(self, answered: dict[str, Any], back: Collection[str], lost: Collection[str]) -> None:
        """Places the actors of `lost` hosts on others, and those of hosts that are `back` where they were."""
        # What a host ran when its network went away ends before anything else, so that no actor runs twice.
        ended = stop_all(self.context, back, final=False)
        back = [key for key in back if isinstance(ended[key], dict)]
        self._returned.update(back)  # what has just been stopped there has to be started
        state = self.context.state
        state.away = [key for key in (*state.away, *lost) if key not in back]
        state.save()
        self._plan_again()
        for key in lost:
            say(f"{self._name(key)}: silent for too long; moving its actors to other hosts")
        for key in back:
            say(f"{self._name(key)}: taking back the actors that were moved")
        self._start([key for key in answered if key not in back])
        if back:
            self._start(back)

    def _name(self, key: str) -> str:
        return display_name(self.context.plan.hosts[key]) if key in self.context.plan.hosts else key


def _states(answer: dict[str, Any], names: Iterable[str]) -> set[str]:
    """The states of these workers on a host."""
    return {answer["records"].get(name, {"state": "off"})["state"] for name in names}


def say(text: str) -> None:
    """Prints a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {printable(text)}", flush=True)
