"""The launch plan: from CSV rows and flags to the processes on each host. Nothing is contacted or started.

`dry-run` prints the plan, `up` starts it. Not here: the commands themselves (mlma/cluster/planning/worker_commands.py).
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection
from pathlib import Path

from mlma.cluster.options import Options
from mlma.cluster.planning.hosts import Host, plan_hosts
from mlma.cluster.planning.worker_commands import (
    RunSettings,
    SupervisedProcess,
    actor_process,
    learners_process,
    mpirun_command,
    tunnel_processes,
)
from mlma.cluster.planning.worker_sets import Learner, make_learners, move_actors, place_actors, spans_hosts
from mlma.cluster.planning.workers_csv import Worker
from mlma.core.config import Config

MAX_NAME_CHARACTERS = 20  # of a run's name in the name of its folder on hosts


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a run starts, and where."""

    session: str  # of this run only: the name of its folder in .mlma/ on every host
    name: str  # for people, who may have several runs of one name
    config: Config
    options: Options
    hosts: dict[str, Host]
    learners: tuple[Learner, ...]
    processes: tuple[SupervisedProcess, ...]

    @property
    def head(self) -> Host:
        """The host on which mpirun, or the only learner, runs."""
        return self.hosts[self.learners[0].worker.host]

    def processes_on(self, host_key: str) -> list[SupervisedProcess]:
        """The supervised processes of one host."""
        return [process for process in self.processes if process.host == host_key]

    def learners_on(self, host: Host) -> list[Worker]:
        """The rows of the learners on a host, including those that mpirun starts there."""
        return [learner.worker for learner in self.learners if learner.worker.host == host.key]

    def spans_hosts(self) -> bool:
        """Whether learners are on more than one host."""
        return spans_hosts(self.learners)

    def tunnelled_learners(self, host_key: str) -> list[Learner]:
        """The learners that a host reaches through SSH."""
        names = [process.name for process in self.processes_on(host_key)]
        ranks = {int(name.removeprefix("tunnel-")) for name in names if name.startswith("tunnel-")}
        return [learner for learner in self.learners if learner.rank in ranks]

    def mpirun_on(self, host: Host) -> list[str]:
        """The mpirun that a learner's host needs: the first one runs it, the others have its daemon next to it."""
        command = mpirun_command(self.learners[0].worker, self.options)
        needs_it = self.learners_on(host) and (host == self.head or "/" in command)
        return [command] if len(self.learners) > 1 and needs_it and not host.image else []

    def container_engines(self, host: Host) -> list[str]:
        """The program that starts containers on a host, if any of its workers runs in one."""
        uses_images = any(process.image for process in self.processes_on(host.key))
        return shlex.split(self.options.container)[:1] if uses_images else []


def make_plan(
    workers: list[Worker],
    config: Config,
    options: Options,
    num_actors: int = 0,
    names: tuple[str, str] = ("", ""),
    away: Collection[str] = (),
) -> Plan:
    """`num_actors` overrides the number of actors in the rows. ValueError if the rows cannot run together.

    `names` are the run's name and that of its folder on hosts. Actors of the hosts in `away` run on other ones.
    """
    name = names[0] or run_name(options, config)
    settings = RunSettings(names[1] or name, config, options)
    home = place_actors(workers, num_actors)
    placed = move_actors(home, away)
    learners = make_learners(workers, len(placed), options)
    processes = [learners_process(learners, home, settings)]  # they go on as they are when actors move
    for number in range(len(placed)):
        learner = learners[number % len(learners)]
        task = number // len(learners)
        processes.append(actor_process(number, placed[number], learner, home, settings, task))
    if options.channel == "ssh":
        processes += tunnel_processes(learners, placed, settings.session)
    hosts = plan_hosts(workers, options)
    return Plan(settings.session, name, config, options, hosts, tuple(learners), tuple(processes))


def run_name(options: Options, config: Config) -> str:
    """Name of the run: ASCII letters, digits, _ and - only."""
    name = Path(config.run.logdir).name if options.tmux_sess == "auto" else options.tmux_sess
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in name) or "run"


def session_name(name: str, run_id: str) -> str:
    """Name of the run's folder on hosts, which no other run has. Short, since paths of sockets are limited."""
    return f"{name[:MAX_NAME_CHARACTERS]}-{run_id}"
