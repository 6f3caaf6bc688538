"""Studies on the rows of a CSV, without hosts: who gets which rows, and what is refused."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, cast

import pytest

from mlma.cluster.options import Options
from mlma.cluster.planning.workers_csv import Worker, read_workers
from mlma.core.config import flag_table
from mlma.core.config.flags import flag_table as flags_of
from mlma.studies.cli import main
from mlma.studies.definition import read_definition
from mlma.studies.journal import Journal
from mlma.studies.local_runs import EXIT_LOST
from mlma.studies.options import StudyOptions
from mlma.studies.placement import host_places
from mlma.studies.placement.dealing import deal, to_csv
from mlma.studies.placement.host_places import HostPlaces

HEADER = "job,ip,tf_port,num_actors,ssh_username,ssh_password"


def rows_of(folder: Path, *rows: str) -> tuple[list[Worker], str]:
    path = folder / "workers.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return read_workers(str(path)), str(path)


def summary(place: list[Worker]) -> tuple[list[str], list[tuple[str, int]]]:
    """The learners' addresses and the actors' with their number."""
    learners = [worker.ip for worker in place if worker.job == "learner"]
    return learners, [(worker.ip, worker.num_actors) for worker in place if worker.job == "actor"]


# Two hosts with two learners each, the second of which has actors, too; and a third one with many actors.
FOUR_LEARNERS = [
    "learner,10.0.0.1,,,ann,",
    "learner,10.0.0.1,,,ann,",
    "learner,10.0.0.2,9000,,bob,secret",
    "learner,10.0.0.2,,,bob,",
    "actor,10.0.0.3,,6,cy,",
    "actor,10.0.0.2,,2,bob,",
]


def test_each_member_gets_two_learners_and_four_actors_of_its_own_hosts_first(tmp_path: Path) -> None:
    workers, path = rows_of(tmp_path, *FOUR_LEARNERS)
    options = StudyOptions(workers_csv_path=path, member_learners=2, member_actors=4)
    first, second = deal(workers, options, 1)  # the second is for a member that loses its place
    assert summary(first) == (["10.0.0.1"] * 2, [("10.0.0.3", 4)])
    assert summary(second) == (["10.0.0.2"] * 2, [("10.0.0.2", 2), ("10.0.0.3", 2)])
    assert [worker.tf_port for worker in (*first, *second) if worker.job == "learner"] == [8001, 8002, 9000, 8001]


def test_without_a_number_all_actors_are_dealt_evenly_and_no_more_places_than_members(tmp_path: Path) -> None:
    workers, path = rows_of(tmp_path, *FOUR_LEARNERS)
    three = deal(workers, StudyOptions(workers_csv_path=path), 3)
    assert [sum(worker.num_actors for worker in place if worker.job == "actor") for place in three] == [3, 3, 2]
    assert len(deal(workers, StudyOptions(workers_csv_path=path, at_once=2), 3)) == 2


def test_learners_of_one_host_have_different_ports_whichever_member_they_are_of(tmp_path: Path) -> None:
    workers, path = rows_of(tmp_path, *FOUR_LEARNERS)
    ports = [place[0].tf_port for place in deal(workers, StudyOptions(workers_csv_path=path), 4)]
    assert ports == [8001, 8002, 9000, 8001]


def test_the_rows_of_a_member_are_a_csv_that_the_frontend_reads(tmp_path: Path) -> None:
    workers, path = rows_of(tmp_path, *FOUR_LEARNERS)
    *_, place = deal(workers, StudyOptions(workers_csv_path=path, member_learners=2), 2)
    own = tmp_path / "own.csv"
    own.write_text(to_csv(place))
    known = [{name: value for name, value in vars(worker).items() if name != "row"} for worker in place]
    assert [
        {name: value for name, value in vars(each).items() if name != "row"} for each in read_workers(str(own))
    ] == known


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (
            "--member_learners=2 --member_actors=9",
            "has 4 learners and 8 actors, too few: a member has 2 learners and 9",
        ),
        ("--member_learners=5", "has 4 learners and 8 actors, too few: a member has 5 learners and 5 actors at least"),
        ("--member_learners=2 --member_actors=4 --at_once=3", "enough for 2 at once, not for at_once = 3"),
        ("--member_learners=2 --member_actors=1", "each of 2 learners needs an actor"),
        ("--num_actors=3", "--num_actors: follows from the CSV"),
        ("--workers_csv_path={folder}/none.csv", "none.csv: No such file"),
        ("--workers_csv=x", "did you mean --workers_csv_path"),
    ],
)
def test_what_cannot_be_dealt_gets_one_line_and_no_folder(
    flags: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = rows_of(tmp_path, *FOUR_LEARNERS)
    words = [word.format(folder=tmp_path) for word in flags.split()]
    given = [] if any("none.csv" in word for word in words) else [f"--workers_csv_path={path}"]
    argv = ["up", "--seeds=4", "--level_name=catch", f"--logdir={tmp_path}/STUDY", *given, *words]
    try:
        code = main(argv)
    except SystemExit as ended:
        code = int(str(ended.code))
    text = capsys.readouterr().err
    assert code == 2 and hint in text and len(text.splitlines()) == 1, text
    assert not (tmp_path / "STUDY").exists()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of places, which start nothing."""
    now = [1000.0]
    monkeypatch.setattr(host_places, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(host_places, "WatcherProcess", lambda order, output: order)
    return now


def three_places(folder: Path) -> tuple[HostPlaces, Journal]:
    """A study of four members with three places."""
    _, path = rows_of(folder, *(f"learner,10.0.0.{host},,,ann," for host in (1, 2, 3)), "actor,10.0.0.4,,3,ann,")
    file = folder / "study.toml"
    file.write_text(f'folder = "{folder}/STUDY"\nseeds = 4\nmember_actors = 1\nworkers_csv_path = "{path}"\n')
    (folder / "STUDY").mkdir()
    journal = Journal(folder / "STUDY")
    for number in range(4):
        journal.add("member", number, values={"seed": number})
    return HostPlaces(read_definition(str(file), {}, {}), journal, print), journal


def test_a_lost_place_is_kept_for_its_member_until_that_trains_elsewhere(tmp_path: Path, clock: list[float]) -> None:
    places, journal = three_places(tmp_path)

    def place_of(number: int) -> int | None:
        started = places.start(journal.members[number], {})
        if started:
            journal.add("started", number, generation=0, **started[1])
        return started[1]["place"] if started else None

    assert [place_of(number) for number in range(4)] == [0, 1, 2, None]
    places.ended(journal.members[0], EXIT_LOST)
    assert places.usable == 2 and place_of(0) is None and place_of(3) is None
    clock[0] += 21
    assert places.usable == 3 and place_of(3) is None and place_of(0) == 0, "it may train there still"
    places.ended(journal.members[0], EXIT_LOST)
    clock[0] += 21
    assert place_of(0) is None, "the second wait is longer"
    places.ended(journal.members[1], 0)
    assert place_of(0) == 1  # its former run at place 0 is ended by its watcher
    clock[0] += 21
    assert place_of(3) == 0


def test_hosts_see_one_folder_wherever_the_study_is_called_from(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    places, journal = three_places(tmp_path)
    monkeypatch.setattr(journal, "folder_on_hosts", f"{tmp_path.name}/STUDY")
    started = places.start(journal.members[2], {})
    assert started
    order = cast(Any, started[0])
    assert (order.working_folder, order.logdir) == (str(tmp_path.parent), f"{tmp_path.name}/STUDY/members/02")
    assert Path(order.working_folder, order.logdir) == Path(order.run)
    monkeypatch.setattr(journal, "folder_on_hosts", "moved/STUDY")  # the study was: it is sent to hosts again
    started = places.start(journal.members[3], {})
    assert started and cast(Any, started[0]).logdir == f"{tmp_path}/STUDY/members/03"


def test_no_flag_of_a_study_is_one_of_the_frontend_or_of_a_run() -> None:
    own = flags_of(StudyOptions).keys() - {"workers_csv_path"}  # which is the frontend's, with its meaning
    assert not own & (flags_of(Options).keys() | flag_table().keys())
