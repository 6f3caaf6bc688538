"""What every verb works with: the call, the run's state, the plan made from both, the hosts, and how to be let in there."""

from __future__ import annotations

import dataclasses
import getpass
import os
import sys
import threading
from pathlib import Path
from typing import Any

from mlma.cluster.options import Invocation, Options
from mlma.cluster.planning.launch_plan import Host, Plan, make_plan
from mlma.cluster.planning.workers_csv import Worker, csv_warnings, read_workers
from mlma.cluster.remote.credentials import Credentials
from mlma.cluster.remote.host_pool import Hosts
from mlma.cluster.remote.ssh import HostError, SshLogin
from mlma.cluster.state import PERSISTED_FLAGS, State, load_state, merged_options
from mlma.core.config import parse, to_argv


class Context:
    def __init__(self, call: Invocation, state: State, options: Options, plan: Plan, workers: list[Worker]) -> None:
        self.call, self.state, self.options, self.plan = call, state, options, plan
        self.keys = Credentials(state.folder)
        self._passwords = {worker.host: worker.ssh_password for worker in workers if worker.ssh_password}
        self._asked: str | None = None
        self._lock = threading.Lock()
        self.hosts = Hosts(state.touched | plan.hosts, self.login, options.command_seconds)

    def login(self, host: Host) -> SshLogin:
        known = Path(self.options.known_hosts).expanduser()
        return SshLogin(self._password(host), known, self.options.accept_new_host_keys, self.options.connect_seconds)

    def _password(self, host: Host) -> str:
        if host.key in self._passwords:
            return self._passwords[host.key]
        if self.options.ask_password:
            with self._lock:
                if self._asked is None:
                    self._asked = getpass.getpass("ssh password: ")
                return self._asked
        return os.environ.get("MLMA_SSH_PASSWORD", "")

    def request(self, verb: str, **values: Any) -> dict[str, Any]:
        return {"verb": verb, "session": self.plan.session, "id": self.state.id, **values}

    def logdir(self) -> str:
        """As the head of the learners sees it."""
        local = self.plan.head.local
        return str(Path(self.plan.config.run.logdir).absolute()) if local else self.plan.config.run.logdir


def make_context(call: Invocation) -> Context:
    """ValueError in a line, or in one for each mistake of the CSV."""
    remembered = load_state(call.config.run.logdir)
    config = call.config
    path = call.given.get("workers_csv_path", "")
    changes = call.verb in ("up", "check", "dry-run") and (bool(path) or not remembered.workers)
    if changes or not remembered.workers:
        if not path:
            if call.verb not in ("up", "check", "dry-run"):
                raise ValueError(f"--logdir={config.run.logdir}: no run was started there by `up`")
            raise ValueError("--workers_csv_path: is needed, a CSV with a worker in each row (docs/cluster.md)")
        workers = read_workers(path)
        call.given["workers_csv_path"] = str(Path(path).absolute())
        for line in csv_warnings(path, workers):
            print(line, file=sys.stderr)
    else:
        workers = with_passwords(remembered, path)
    mine = [word for word in call.argv if not word.startswith("--logdir=")]
    if remembered.workers and not mine:
        before = parse(list(remembered.argv))
        config = before.replace(logdir=config.run.logdir)
    elif remembered.up and call.verb not in ("check", "dry-run"):
        theirs = [word for word in remembered.argv if not word.startswith("--logdir=")]
        if differ := sorted(set(mine) ^ set(theirs)):
            raise ValueError(
                f"the run in {config.run.logdir} was started with other flags: {', '.join(differ)}; `down` ends it first"
            )
    if call.verb in ("restart", "scale") and not remembered.up:
        raise ValueError(f"--logdir={config.run.logdir}: the run there is not up; `up` starts it")
    options = merged_options(remembered, call.given)
    actors = remembered.actors if not changes else 0
    if call.verb == "scale":
        actors = _actor_count(call.operands)
    made = make_plan(workers, config, options, actors)
    if call.verb in ("up", "scale"):
        remembered.workers, remembered.argv, remembered.actors = workers, to_argv(config), actors
        remembered.options |= {name: value for name, value in call.given.items() if name in PERSISTED_FLAGS}
    return Context(call, remembered, options, made, workers)


def _actor_count(operands: tuple[str, ...]) -> int:
    if len(operands) != 1 or not operands[0].isdigit() or not 0 < int(operands[0]) <= 100_000:
        raise ValueError(f"scale {' '.join(operands)}: must be scale N, the number of actors from now on, at least 1")
    return int(operands[0])


def with_passwords(remembered: State, path: str) -> list[Worker]:
    """The rows of the run; the state has no passwords, the CSV may."""
    path = path or remembered.options.get("workers_csv_path", "")
    try:
        passwords = {worker.host: worker.ssh_password for worker in read_workers(path)} if path else {}
    except ValueError:
        passwords = {}  # the CSV has gone, or is being edited
    return [dataclasses.replace(worker, ssh_password=passwords.get(worker.host, "")) for worker in remembered.workers]


def display_name(host: Host) -> str:
    """For a table."""
    return "localhost" if host.local else host.ip if host.port == 22 else f"{host.ip}:{host.port}"


def host_errors(answers: dict[str, Any]) -> dict[str, str]:
    """Host -> why it could not be used."""
    return {key: str(answer) for key, answer in answers.items() if isinstance(answer, HostError)}


def plural(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def summarize_plan(plan: Plan) -> str:
    actors = sum(len(learner.actors) for learner in plan.learners)
    return f"{plural(len(plan.learners), 'learner')}, {plural(actors, 'actor')}, {plural(len(plan.hosts), 'host')}"
