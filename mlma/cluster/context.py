"""The context of a command: its flags, the state of the run, the launch plan, and the hosts."""

from __future__ import annotations

import dataclasses
import functools
import getpass
import math
import os
import re
import shlex
import sys
import threading
from pathlib import Path
from typing import Any

from mlma.cluster.options import Invocation, Options
from mlma.cluster.planning.hosts import Host, attach_argv
from mlma.cluster.planning.launch_plan import Plan, make_plan, run_name, session_name
from mlma.cluster.planning.workers_csv import Worker, csv_warnings, read_workers
from mlma.cluster.remote.credentials import Credentials
from mlma.cluster.remote.host_pool import Hosts
from mlma.cluster.remote.ssh_login import HostError, SshLogin
from mlma.cluster.state import PERSISTED_FLAGS, State, load_state, merged_options
from mlma.core.config import Config, flag_table, merged_config, parse, to_argv
from mlma.core.config.limits import MAX_ACTORS
from mlma.utils.user_text import shown

PATIENCE_SECONDS = 2.5  # with a host that accepts no connection while all others have answered; a second try is at 1 s
PLANNING_COMMANDS = ("up", "check", "dry-run", "exec")  # they plan a new run; the others need one that `up` has started
RUNNING_COMMANDS = ("restart", "scale", "keep")  # they need a run that is up


class Context:
    """What every command works with."""

    def __init__(
        self, invocation: Invocation, state: State, options: Options, plan: Plan, workers: list[Worker]
    ) -> None:
        self.invocation, self.state, self.options, self.plan = invocation, state, options, plan
        self.credentials = Credentials(state.folder)
        self._passwords = {worker.host: worker.ssh_password for worker in workers if worker.ssh_password}
        self._lock = threading.Lock()
        self._saved_hosts: set[str] = set()
        # How long to wait for a host that answers nothing is the user's choice, if it is made.
        given = "connect_seconds" in invocation.given_options
        patience = math.inf if given else PATIENCE_SECONDS
        self.hosts = Hosts(state.contacted_hosts | plan.hosts, self.login, options.command_seconds, patience)

    def login(self, host: Host) -> SshLogin:
        """How to log in to a host. May prompt for a password."""
        known_hosts = Path(self.options.known_hosts).expanduser()
        options = self.options
        return SshLogin(self._password(host), known_hosts, options.accept_new_host_keys, options.connect_seconds)

    def request(self, action: str, **values: Any) -> dict[str, Any]:
        """A request to the run's host agent (mlma/cluster/on_host/host_agent.py)."""
        plan = self.plan
        return {"action": action, "session": plan.session, "name": plan.name, "id": self.state.id, **values}

    def remember(self, host: Host) -> None:
        """Records that something of the run may be on this host from now on; before it gets there."""
        self.state.contacted_hosts[host.key] = host
        with self._lock:
            if host.key not in self._saved_hosts:  # hosts that answer at once are saved together
                saved = set(self.state.contacted_hosts)
                self.state.up = True
                self.state.save()
                self._saved_hosts |= saved

    def logdir(self) -> str:
        """The logdir as the first learner's host sees it."""
        logdir = self.plan.config.run.logdir
        return str(Path(logdir).absolute()) if self.plan.head.local else logdir

    def _password(self, host: Host) -> str:
        if host.key in self._passwords:
            return self._passwords[host.key]
        if self.options.ask_password:
            with self._lock:
                return _prompted_password()
        return os.environ.get("MLMA_SSH_PASSWORD", "")


@functools.cache
def _prompted_password() -> str:
    """What the user types, who is asked once."""
    return getpass.getpass("ssh password: ")


def make_context(invocation: Invocation) -> Context:
    """Combines the command line with the state of the run. ValueError with a line for each error."""
    state = load_state(invocation.config.run.logdir)
    workers, from_csv = _workers(invocation, state)
    config = _config(invocation, state)
    if invocation.command in RUNNING_COMMANDS and not state.up:
        raise ValueError(f"--logdir={config.run.logdir}: the run there is not up; `up` starts it")
    options = merged_options(state, invocation.given_options)
    _name_run(invocation, state, run_name(options, config))
    num_actors = 0 if from_csv else state.actors
    if invocation.command == "scale":
        num_actors = _parse_num_actors(invocation.operands)
    if from_csv or invocation.command in ("up", "scale"):
        state.away = []
    plan = make_plan(workers, config, options, num_actors, (state.name, state.session), state.away)
    if invocation.command in PLANNING_COMMANDS and state.workers:
        _print_changes(state, config, options)
    if invocation.command in ("up", "scale"):
        state.workers, state.argv, state.actors = workers, to_argv(config), num_actors
        state.options |= {name: value for name, value in invocation.given_options.items() if name in PERSISTED_FLAGS}
    return Context(invocation, state, options, plan, workers)


def _name_run(invocation: Invocation, state: State, name: str) -> None:
    """Sets the names of the run on hosts. They stay as long as something of it may be there."""
    if state.contacted_hosts:
        if "tmux_sess" in invocation.given_options and name != state.name:
            raise ValueError(f"--tmux_sess={shown(name)}: the run is up as {state.name}; `down` ends it")
    elif invocation.command in PLANNING_COMMANDS or not state.session:
        run_id = state.id if state.workers or invocation.command == "up" else "ID"  # `up` chooses it
        state.name, state.session = name, session_name(name, run_id)


def _workers(invocation: Invocation, state: State) -> tuple[list[Worker], bool]:
    """The rows, and whether a planning command read them from a CSV, which then overrides an earlier `scale`."""
    path = invocation.given_options.get("workers_csv_path", "")
    plans = invocation.command in PLANNING_COMMANDS
    if state.workers and not (plans and path):
        return _with_passwords(state, path), False
    if not path:
        if not plans:
            raise ValueError(f"--logdir={invocation.config.run.logdir}: no run was started there by `up`")
        raise ValueError("--workers_csv_path: is required, a CSV with one worker per row (docs/guides/cluster.md)")
    workers = read_workers(path)
    invocation.given_options["workers_csv_path"] = str(Path(path).absolute())
    for line in csv_warnings(path, workers):
        print(line, file=sys.stderr)
    return workers, plans


def _config(invocation: Invocation, state: State) -> Config:
    """The training flags of the run, with those of this call over them."""
    earlier = list(state.argv) if state.workers else []
    logdir = invocation.config.run.logdir
    try:
        config = merged_config(earlier, invocation.given_flags).replace(logdir=logdir)
    except ValueError as error:  # those of this call alone are right
        kept = " ".join(_without_logdir(earlier))
        raise ValueError(f"{error}; flags of the last `up`, which are kept: {kept}") from None
    if state.up and invocation.command not in ("check", "dry-run") and (different := _changed_flags(state, config)):
        raise ValueError(f"the run in {logdir} was started with other flags: {', '.join(different)}; `down` ends it")
    return config


def _changed_flags(state: State, config: Config) -> list[str]:
    """Training flags that differ from those of the last `up`, in words."""
    earlier = parse(list(state.argv)) if state.workers else config
    return [
        f"--{name}={flag.format(config.get(name))} (was {flag.format(earlier.get(name)) or 'empty'})"
        for name, flag in flag_table().items()
        if name != "logdir" and config.get(name) != earlier.get(name)
    ]


def _print_changes(state: State, config: Config, options: Options) -> None:
    """Says which flags this call changes, and which others the run has from the last `up`."""
    earlier, changed = merged_options(state, {}), _changed_flags(state, config)
    for name in PERSISTED_FLAGS:
        if (now := getattr(options, name)) != (before := getattr(earlier, name)):
            changed.append("--env" if name == "env" else f"--{name}={now} (was {before})")  # --env may hold secrets
    if changed:
        kept = " ".join(word for word in _without_logdir(state.argv) if word in to_argv(config))
        print(f"changed since the last `up`: {', '.join(changed)}", file=sys.stderr)
        print(f"kept from it: {kept or 'no other flag'}; to drop one, give its default", file=sys.stderr)


def _without_logdir(argv: list[str]) -> list[str]:
    return [word for word in argv if not word.startswith("--logdir=")]


def _parse_num_actors(operands: tuple[str, ...]) -> int:
    word = operands[0] if len(operands) == 1 else ""
    if not re.fullmatch("[0-9]{1,9}", word) or not 0 < int(word) <= MAX_ACTORS:
        raise ValueError(f"scale {shown(' '.join(operands))}: must be scale N, with N actors from 1 to {MAX_ACTORS}")
    return int(operands[0])


def _with_passwords(state: State, path: str) -> list[Worker]:
    """The rows of the run, with passwords from its CSV, since the state has none."""
    path = path or state.options.get("workers_csv_path", "")
    try:
        passwords = {worker.host: worker.ssh_password for worker in read_workers(path)} if path else {}
    except ValueError:
        passwords = {}  # the CSV was removed, or is being edited
    return [dataclasses.replace(worker, ssh_password=passwords.get(worker.host, "")) for worker in state.workers]


def check_level(plan: Plan) -> None:
    """ValueError for a level or network that experiment.py would refuse on every host."""
    try:
        from mlma.core.presets.resolve import resolve
        from mlma.envs.registry import env_spec
    except ImportError:
        return  # the environments may be missing on this machine; then the workers report the error
    resolve(plan.config, env_spec(plan.config.environment), cores=1)


def display_name(host: Host) -> str:
    """The host's name in tables."""
    return host.label or ("localhost" if host.local else host.ip if host.port == 22 else f"{host.ip}:{host.port}")


def attach_text(plan: Plan, host: Host) -> str:
    """The command, as it is typed on this machine, that shows the windows of a host."""
    attach = shlex.join(attach_argv(plan.session, host))
    port = f"-p {host.port} " * (host.port != 22)
    return attach if host.local else f"ssh -t {port}{host.user}@{host.alias or host.ip} {attach}"


def host_errors(answers: dict[str, Any]) -> dict[str, str]:
    """Host key -> why the host could not be used."""
    return {key: str(answer) for key, answer in answers.items() if isinstance(answer, HostError)}


def plural(count: int, noun: str) -> str:
    """The count and the noun, such as "1 host" or "2 hosts"."""
    suffix = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{suffix}"


def summarize_plan(plan: Plan) -> str:
    """Numbers of learners, actors and hosts."""
    num_actors = sum(len(learner.actors) for learner in plan.learners)
    counts = (len(plan.learners), "learner"), (num_actors, "actor"), (len(plan.hosts), "host")
    return ", ".join(plural(count, noun) for count, noun in counts)
