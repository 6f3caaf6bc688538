"""Worker sets: each learner with the actors that feed it. Actors are assigned to learners round-robin."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from pathlib import Path

from mlma.cluster.options import Options
from mlma.cluster.planning.hosts import python_command
from mlma.cluster.planning.workers_csv import Worker

FIRST_PORT = 8001


@dataclasses.dataclass(frozen=True)
class Learner:
    """A learner and the numbers of its actors in the run."""

    rank: int
    worker: Worker
    port: int
    actors: tuple[int, ...]


def place_actors(workers: list[Worker], num_actors: int) -> list[Worker]:
    """The row of each actor. 0 means as many actors as the rows say; more start again at the first row."""
    rows = [worker for worker in workers if worker.job == "actor" for _ in range(worker.num_actors or 1)]
    return list(itertools.islice(itertools.cycle(rows), num_actors)) if num_actors else rows


def move_actors(home: list[Worker], away: Collection[str]) -> list[Worker]:
    """The row of each actor, if the hosts in `away` are not used. Their actors are spread over the other rows."""
    others = itertools.cycle([worker for worker in home if worker.host not in away])
    return [next(others, worker) if worker.host in away else worker for worker in home]


def make_learners(workers: list[Worker], num_actors: int, options: Options) -> list[Learner]:
    """The learners with their ports and actors; ValueError if they cannot run together."""
    rows = [worker for worker in workers if worker.job == "learner"]
    used_ports = {(worker.ip, worker.tf_port) for worker in rows}
    learners = []
    for rank, worker in enumerate(rows):
        port = worker.tf_port or next(p for p in itertools.count(FIRST_PORT) if (worker.ip, p) not in used_ports)
        used_ports.add((worker.ip, port))
        learners.append(Learner(rank, worker, port, tuple(range(rank, num_actors, len(rows)))))
    if num_actors < len(learners):
        raise ValueError(f"{num_actors} actors for {len(learners)} learners; each learner needs at least one")
    _check_images(learners)
    if spans_hosts(learners):
        _check_hosts(learners, options)
    return learners


def spans_hosts(learners: Sequence[Learner]) -> bool:
    """Whether the learners are on more than one host."""
    return len({learner.worker.host for learner in learners}) > 1


def _check_images(learners: list[Learner]) -> None:
    images = {learner.worker.image for learner in learners}
    if len(images) > 1 or (spans_hosts(learners) and "" not in images):
        raise ValueError(
            f"rows {', '.join(str(learner.worker.row) for learner in learners)}, column image: several learners run in "
            "one container, so they must be on one host and have the same image (docs/guides/deploy.md)"
        )


def _check_hosts(learners: list[Learner], options: Options) -> None:
    """What mpirun requires of learners on several hosts."""
    for learner in learners:
        if ":" in learner.worker.ip:
            raise ValueError(
                f"row {learner.worker.row}, column ip: {learner.worker.ip}: mpirun takes no IPv6 address; learners on "
                "several hosts need host names or IPv4 addresses"
            )
    by_ip: dict[str, Worker] = {}
    for learner in learners:
        other = by_ip.setdefault(learner.worker.ip, learner.worker)
        if other.host != learner.worker.host:
            raise ValueError(
                f"rows {other.row} and {learner.worker.row}: mpirun identifies hosts by address; two learners on "
                f"{learner.worker.ip} must have the same ssh_port and ssh_username"
            )
    folders = {str(Path(python_command(learner.worker, options)[0]).parent): learner.worker.row for learner in learners}
    if len(folders) > 1 and options.mpirun == "auto":
        raise ValueError(
            f"rows {', '.join(map(str, folders.values()))}: Open MPI is expected next to python, in the same folder on "
            f"every learner's host, but these differ: {', '.join(folders)}; use the same python, or set --mpirun "
            "to one that all of these hosts have"
        )
