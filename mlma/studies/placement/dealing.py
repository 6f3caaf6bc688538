"""Deals the rows of a CSV of workers to places, each of which has what one member needs.

A place takes its learners in the order of the rows, and actors first from the hosts of its learners, then in the order
of the rows. A row with several actors may be shared by places. Not here: who trains where
(mlma/studies/placement/host_places.py).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from pathlib import Path

from mlma.cluster.planning.csv_columns import BASE_COLUMNS, OPTIONAL_COLUMNS
from mlma.cluster.planning.worker_sets import FIRST_PORT
from mlma.cluster.planning.workers_csv import Worker
from mlma.studies.options import StudyOptions
from mlma.utils.user_text import shown


def deal(workers: list[Worker], options: StudyOptions, members: int) -> list[list[Worker]]:
    """The rows of each place; with a number of actors for each, as many places as there are, beyond those needed.

    ValueError in one line if the rows are too few.
    """
    learners = _with_ports([worker for worker in workers if worker.job == "learner"])
    rows_of_actors = [worker for worker in workers if worker.job == "actor"]
    actors = sum(worker.num_actors or 1 for worker in rows_of_actors)
    each, wanted = options.member_learners, options.member_actors
    name = shown(options.workers_csv_path)
    if 0 < wanted < each:
        raise ValueError(f"member_actors: {wanted}: each of {each} learners needs an actor; allowed: 0, or {each} on")
    enough = min(len(learners) // each, actors // (wanted or each))
    needs = f"a member has {_plural(each, 'learner')} and {_plural(wanted or each, 'actor')}"
    needs += " (member_learners, member_actors)" if wanted else " at least (member_learners)"
    has = f"{name}: has {_plural(len(learners), 'learner')} and {_plural(actors, 'actor')}"
    if not enough:
        raise ValueError(f"{has}, too few: {needs}")
    if options.at_once > enough:
        raise ValueError(f"{has}, enough for {enough} at once, not for at_once = {options.at_once}: {needs}")
    count = enough if wanted else min(enough, members, options.at_once or enough)
    of_places = [learners[each * place : each * (place + 1)] for place in range(count)]
    quotas = [wanted or actors // count + (place < actors % count) for place in range(count)]
    taken = _take_actors(of_places, rows_of_actors, quotas)
    return [rows + taken[place] for place, rows in enumerate(of_places)]


def _take_actors(of_places: list[list[Worker]], actors: list[Worker], quotas: list[int]) -> list[list[Worker]]:
    """The actors of each place: of its own hosts first, then of any."""
    taken: list[list[Worker]] = [[] for _ in of_places]
    wanted, free = list(quotas), [worker.num_actors or 1 for worker in actors]
    for only_own, (place, learners) in itertools.product((True, False), enumerate(of_places)):
        hosts = {learner.host for learner in learners}
        for row, worker in enumerate(actors):
            count = min(free[row], wanted[place])
            if count and (not only_own or worker.host in hosts):
                taken[place].append(dataclasses.replace(worker, num_actors=count))
                free[row] -= count
                wanted[place] -= count
    return taken


def _with_ports(learners: list[Worker]) -> list[Worker]:
    """The rows with the ports that they would have in one run, so that members on one host have different ones."""
    used = {(worker.ip, worker.tf_port) for worker in learners}
    found = []
    for worker in learners:
        port = worker.tf_port or next(port for port in itertools.count(FIRST_PORT) if (worker.ip, port) not in used)
        used.add((worker.ip, port))
        found.append(dataclasses.replace(worker, tf_port=port))
    return found


def to_csv(workers: list[Worker]) -> str:
    """Rows as a CSV, which may hold passwords."""
    columns = (*BASE_COLUMNS, *OPTIONAL_COLUMNS)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for worker in workers:
        values = vars(worker) | {"ip": worker.alias or worker.ip}
        if worker.ssh_key_file:  # relative to where the study was started
            values["ssh_key_file"] = str(Path(worker.ssh_key_file).expanduser().absolute())
        writer.writerow([values[column] or "" for column in columns])
    return text.getvalue()


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
