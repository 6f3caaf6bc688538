"""The CSV of workers: read it, or list every mistake in it at once, with file, row, column, value and what is allowed.

    job,ip,tf_port,cuda_visible_devices,ssh_port,ssh_username,ssh_password

is the ancestor's header; `OPTIONAL` columns may be added, and fields may be empty. Not here: what runs where
(mlma/cluster/planning/launch_plan.py).
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import getpass
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlma.utils.network import is_local_ip

BASE_COLUMNS = ("job", "ip", "tf_port", "cuda_visible_devices", "ssh_port", "ssh_username", "ssh_password")
OPTIONAL_COLUMNS = ("ssh_key_file", "folder", "python", "envs_per_actor", "num_actors", "image")
MAX_SHOWN_CHARACTERS = 40  # characters of a bad value


@dataclasses.dataclass(frozen=True)
class Worker:
    """A row. An empty field is "" or 0."""

    row: int  # as an editor counts lines
    job: str
    ip: str
    tf_port: int = 0
    cuda_visible_devices: str = ""
    ssh_port: int = 0
    ssh_username: str = ""
    ssh_password: str = dataclasses.field(default="", repr=False)
    ssh_key_file: str = ""
    folder: str = ""
    python: str = ""
    envs_per_actor: int = 0
    num_actors: int = 0
    image: str = ""

    @property
    def local(self) -> bool:
        """This machine, which needs no ssh."""
        return self.ip == "localhost" or (is_local_ip(self.ip) and not self.ssh_username and not self.ssh_port)

    @property
    def host(self) -> str:
        """Rows with the same name here are one host."""
        return (
            "localhost" if self.local else f"{self.ssh_username or getpass.getuser()}@{self.ip}:{self.ssh_port or 22}"
        )


class CsvErrors(ValueError):
    """All that is wrong with a CSV, a line each."""


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise ValueError(f"must be an integer from {least} to {most}, or empty")
        return int(text)

    return parse


def _matching(pattern: str, allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {allowed}")
        return text

    return parse


def _key_file(text: str) -> str:
    if not Path(text).expanduser().is_file():
        raise ValueError("must be a file on this machine, or empty")
    return text


def _command(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"must be a command, quoted as in a shell ({error}), or empty") from None
    if not words:
        raise ValueError("must be a command, or empty")
    return text


PORT = _integer(1, 65535)
COLUMNS: dict[str, Callable[[str], Any]] = {
    "job": _matching("learner|actor", "learner or actor"),
    "ip": _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a host name or an IPv4 address, or localhost"),
    "tf_port": PORT,
    "cuda_visible_devices": _matching(r"-1|[\w-]+(,[\w-]+)*", 'numbers of GPUs such as 0 or "0,1", -1, or empty'),
    "ssh_port": PORT,
    "ssh_username": _matching(r"[\w.][\w.@$-]*", "a user name, or empty"),
    "ssh_password": str,
    "ssh_key_file": _key_file,
    "folder": _matching(
        r"[^\0\n~-][^\0\n]*", "a folder on the host, absolute or relative to the home (without ~), or empty"
    ),
    "python": _command,
    "envs_per_actor": _integer(1, 100_000),
    "num_actors": _integer(1, 10_000),
    "image": _matching(r"[\w/][\w./:@+-]*", "the name or the file of an image, or empty"),
}


def read_workers(path: str) -> list[Worker]:
    """The rows; Mistakes if there are any."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CsvErrors(f"--workers_csv_path={path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CsvErrors(f"--workers_csv_path={path}: is not UTF-8 text") from None
    reader = csv.reader(io.StringIO(text))
    mistakes: list[str] = []
    header: list[str] = []
    workers: list[Worker] = []
    seen = 0
    try:
        for fields in reader:
            first, seen = seen + 1, reader.line_num
            if not any(field.strip() for field in fields) or fields[0].startswith("#"):
                continue
            if not header:
                header = [field.strip() for field in fields]
                mistakes += [f"{path}, row {first}, {problem}" for problem in _header(header)]
                if mistakes:
                    break  # nothing below can be told
                continue
            values, problems = _row(header, fields)
            mistakes += [f"{path}, row {first}, {problem}" for problem in problems]
            if not problems:
                workers.append(Worker(first, **values))
    except csv.Error as error:
        mistakes.append(f"{path}, row {reader.line_num}: is not CSV: {error}")
    if not header:
        mistakes.append(f"{path}, row 1: the header is missing; allowed: {','.join(BASE_COLUMNS)}")
    if not mistakes:
        mistakes = [f"{path}, {problem}" for problem in _together(workers)]
    if mistakes:
        raise CsvErrors("\n".join(mistakes))
    return workers


def _header(header: list[str]) -> list[str]:
    problems = [f"column {name!r}: is needed" for name in ("job", "ip") if name not in header]
    for name in dict.fromkeys(header):
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"; nearest: {near[0]}" if near else ""
            problems.append(f"column {name!r}: no such column{hint}; allowed: {', '.join(COLUMNS)}")
        elif header.count(name) > 1:
            problems.append(f"column {name!r}: is there {header.count(name)} times; allowed: once")
    return problems


def _row(header: list[str], fields: list[str]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    problems = []
    if len(fields) != len(header):
        what = f"{len(fields)} fields under {len(header)} columns"
        problems.append(f'{what}: must be as many, empty ones too; a field with a comma in it needs quotes ("0,1")')
        return values, problems
    for name, field in zip(header, fields, strict=True):
        text = field if name == "ssh_password" else field.strip()
        if not text and name not in ("job", "ip"):
            continue
        try:
            values[name] = COLUMNS[name](text)
        except ValueError as error:
            problems.append(f"column {name}: {text[:MAX_SHOWN_CHARACTERS]!r}: {error}")
    for name in ("envs_per_actor", "num_actors") if values.get("job") == "learner" else ():
        if values.get(name):
            problems.append(f"column {name}: {str(values[name])!r}: must be empty for a learner")
    return values, problems


def _together(workers: list[Worker]) -> list[str]:
    """What is wrong between rows."""
    problems = []
    learners = [worker for worker in workers if worker.job == "learner"]
    actors = sum(worker.num_actors or 1 for worker in workers if worker.job == "actor")
    if not learners:
        problems.append("column job: no row is a learner; there must be at least one")
    if actors < max(1, len(learners)):
        problems.append(
            f"column job: {actors} actors for {len(learners)} learners; there must be one for each at least"
        )
    listening: dict[tuple[str, int], int] = {}
    for worker in learners:
        place = worker.ip, worker.tf_port
        if worker.tf_port and place in listening:
            problems.append(
                f"row {worker.row}, column tf_port: '{worker.tf_port}': is that of the learner in row {listening[place]} on "
                f"{worker.ip}; must differ"
            )
        listening[place] = worker.row
    loopback = [worker for worker in learners if worker.ip == "localhost" or worker.ip.startswith("127.")]
    away = [worker for worker in workers if not worker.local]
    for worker in loopback if away else ():
        problems.append(
            f"row {worker.row}, column ip: {worker.ip!r}: {away[0].ip} in row {away[0].row} cannot reach a learner there; "
            "must be an address of this machine that the others reach"
        )
    first: dict[str, Worker] = {}
    for worker in workers:
        other = first.setdefault(worker.host, worker)
        for name in ("ssh_password", "ssh_key_file"):
            mine, theirs = getattr(worker, name), getattr(other, name)
            if not worker.local and mine and theirs and mine != theirs:
                shown = "" if name == "ssh_password" else f"{mine!r}: "
                problems.append(
                    f"row {worker.row}, column {name}: {shown}differs from row {other.row}, which is the same host"
                )
    return problems


def csv_warnings(path: str, workers: list[Worker]) -> list[str]:
    try:
        mode = Path(path).stat().st_mode & 0o777
    except OSError:
        return []
    if mode & 0o077 and any(worker.ssh_password for worker in workers):
        return [f"warning: {path} holds passwords and others can read it (mode {mode:04o}); chmod 600 {path}"]
    return []
