"""Reads the CSV of workers, or lists all errors in it at once: file, row, column, value and allowed values.

Fields are separated by commas, semicolons or tabs, as the header shows, and may be empty. What ~/.ssh/config says of a
host completes its row. Not here: the columns (mlma/cluster/planning/csv_columns.py), what runs where
(mlma/cluster/planning/worker_sets.py).
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import getpass
import io
from pathlib import Path
from typing import Any

from mlma.cluster.planning.csv_columns import BASE_COLUMNS, COLUMNS, REQUIRED_COLUMNS
from mlma.cluster.planning.ssh_config import SshConfig, read_ssh_config
from mlma.core.config.limits import MAX_ACTORS, MAX_LEARNERS
from mlma.transport.addresses import is_local_ip, is_loopback
from mlma.utils.input_file import read_input_file
from mlma.utils.user_text import check_text, printable, shown

DELIMITERS = ",;\t"
MAX_SHOWN_CHARACTERS = 40  # of a bad value
MAX_FILE_BYTES = 4 * 2**20  # 100,000 actors, one a row
MAX_FIELD_CHARACTERS = 4096
MAX_COLUMNS = 100
MAX_LISTED_ERRORS, MAX_ERRORS = 20, 1000  # of which the first are listed; reading ends after the last


@dataclasses.dataclass(frozen=True)
class Worker:
    """A row of the CSV. An empty field is "" or 0."""

    row: int  # line number in the file
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
    alias: str = ""  # what the column ip says, if ~/.ssh/config gives it another host name
    proxy: str = ""  # command that connects to the host's sshd, from ~/.ssh/config

    @property
    def local(self) -> bool:
        """Whether the row means this machine, which needs no SSH."""
        return self.ip == "localhost" or (is_local_ip(self.ip) and not self.ssh_username and not self.ssh_port)

    @property
    def host(self) -> str:
        """Key of the host; rows with the same key are on one host."""
        if self.local:
            return "localhost"
        address = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{self.ssh_username or getpass.getuser()}@{address}:{self.ssh_port or 22}"


class CsvErrors(ValueError):
    """All errors in a CSV, one per line."""


def read_workers(path: str) -> list[Worker]:
    """The rows of the CSV; CsvErrors if there is any error in it."""
    file = shown(path)
    try:
        # As spreadsheets write it: with a mark at the start, and any line ends.
        text = read_input_file(path, MAX_FILE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise CsvErrors(f"--workers_csv_path={file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CsvErrors(f"--workers_csv_path={file}: is not UTF-8 text") from None
    except ValueError as error:
        raise CsvErrors(f"--workers_csv_path={file}: {error}") from None
    delimiter = find_delimiter(text)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    errors: list[str] = []
    header: list[str] = []
    workers: list[Worker] = []
    lines_read = 0
    try:
        for fields in reader:
            row, lines_read = lines_read + 1, reader.line_num  # a quoted field may contain line ends
            if not any(field.strip() for field in fields) or fields[0].startswith("#"):
                continue
            if not header:
                header = [field.strip() for field in fields]
                errors += [f"{file}, row {row}, {error}" for error in _header_errors(header)]
                if errors:
                    break  # the columns of the rows below are unknown
                continue
            values, row_errors = _parse_row(header, fields, delimiter)
            errors += [f"{file}, row {row}, {error}" for error in row_errors]
            if len(errors) >= MAX_ERRORS:
                break
            if not row_errors:
                workers.append(Worker(row, **values))
    except csv.Error as error:
        errors.append(f"{file}, row {reader.line_num}: is not CSV: {error}")
    if not header and not errors:
        errors.append(f"{file}, row 1: the header is missing; allowed: {','.join(BASE_COLUMNS)}")
    if not errors:
        config = read_ssh_config()
        workers = [_completed(worker, config) for worker in workers]
        errors = [f"{file}, {error}" for error in _cross_row_errors(workers)]
    if errors:
        more = len(errors) - MAX_LISTED_ERRORS
        listed = errors[:MAX_LISTED_ERRORS] + [f"{file}: and at least {more} more errors"] * (more > 0)
        raise CsvErrors("\n".join(listed))
    return workers


def find_delimiter(text: str) -> str:
    """What separates the fields: of comma, semicolon and tab, the one that makes the most columns of the header."""
    lines = (line for line in text.splitlines() if line.strip(" ,;\t") and not line.startswith("#"))
    header = next(lines, "")
    names = {each: [name.strip(' "') for name in header.split(each)] for each in DELIMITERS}
    return max(DELIMITERS, key=lambda each: (len(set(names[each]) & set(COLUMNS)), -DELIMITERS.index(each)))


def _completed(worker: Worker, config: SshConfig) -> Worker:
    """The row with what ~/.ssh/config says of its host. What the row says itself stays, as with flags of ssh."""
    if worker.local:
        return worker
    found = config.lookup(worker.ip, worker.ssh_port, worker.ssh_username)
    return dataclasses.replace(
        worker,
        ip=found.hostname,
        ssh_port=worker.ssh_port or found.port,
        ssh_username=worker.ssh_username or found.user,
        ssh_key_file=worker.ssh_key_file or found.key_file,
        alias=worker.ip if found.hostname != worker.ip else "",
        proxy=found.proxy,
    )


def _header_errors(header: list[str]) -> list[str]:
    if len(header) > MAX_COLUMNS:
        return [f"{len(header)} columns: must be at most {MAX_COLUMNS}"]
    errors, misspelt = [], set()
    if not set(header) & set(COLUMNS):
        return [f"column 'job': is required, {_shown(','.join(header))} is no header; allowed: {', '.join(COLUMNS)}"]
    for name in dict.fromkeys(header):
        value = _shown(name)
        if name in COLUMNS:
            times = header.count(name)
            errors += [f"column {value}: appears {times} times; allowed: once"] * (times > 1)
            continue
        visible = "".join(filter(str.isprintable, name[:MAX_SHOWN_CHARACTERS]))  # a mark may stand before the name
        near = difflib.get_close_matches(visible, COLUMNS, n=1)
        misspelt |= set(near)
        hint = f"; did you mean {near[0]}?" if near else ""
        errors.append(f"column {value}: no such column{hint}; allowed: {', '.join(COLUMNS)}")
    missing = [name for name in REQUIRED_COLUMNS if name not in header and name not in misspelt]
    return [f"column {name!r}: is required" for name in missing] + errors


def _parse_row(header: list[str], fields: list[str], delimiter: str) -> tuple[dict[str, Any], list[str]]:
    """The values of a row, and its errors."""
    values: dict[str, Any] = {}
    if len(fields) != len(header):
        counts = f"{len(fields)} fields in {len(header)} columns"
        name = {";": "semicolon", "\t": "tab"}.get(delimiter, "comma")
        example = "0,1" if delimiter == "," else f"a{delimiter}b".replace("\t", " ")
        return values, [
            f'{counts}: the numbers must be equal; a field that contains a {name} needs quotes ("{example}")'
        ]
    errors = []
    for name, field in zip(header, fields, strict=True):
        text = field if name == "ssh_password" else field.strip()
        if not text and name not in REQUIRED_COLUMNS:
            continue
        try:
            check_text(text, MAX_FIELD_CHARACTERS)
            values[name] = COLUMNS[name](text)
        except ValueError as error:
            value = "" if name == "ssh_password" else f"{_shown(text)}: "
            errors.append(f"column {name}: {value}{error}")
    for name in ("envs_per_actor", "num_actors") if values.get("job") == "learner" else ():
        if values.get(name):
            errors.append(f"column {name}: {str(values[name])!r}: must be empty for a learner")
    return values, errors


def _shown(text: str) -> str:
    return f"'{printable(text, MAX_SHOWN_CHARACTERS)}'"


def _cross_row_errors(workers: list[Worker]) -> list[str]:
    """Rows that contradict each other, or do not make a run."""
    errors = []
    learners = [worker for worker in workers if worker.job == "learner"]
    num_actors = sum(worker.num_actors or 1 for worker in workers if worker.job == "actor")
    if not learners:
        errors.append("column job: no row is a learner; at least one is required")
    if num_actors < max(1, len(learners)):
        errors.append(f"column job: {num_actors} actors for {len(learners)} learners; each learner needs at least one")
    if num_actors > MAX_ACTORS or len(learners) > MAX_LEARNERS:
        limits = f"{MAX_ACTORS} actors and {MAX_LEARNERS} learners"
        return [f"column job: {num_actors} actors and {len(learners)} learners; must be at most {limits}"]
    used: dict[tuple[str, int], int] = {}  # address of a learner -> its row
    for worker in learners:
        address = worker.ip, worker.tf_port
        if worker.tf_port and address in used:
            errors.append(
                f"row {worker.row}, column tf_port: '{worker.tf_port}': already used by the learner in row "
                f"{used[address]} on {worker.ip}; must differ"
            )
        used[address] = worker.row
    loopback = [worker for worker in learners if is_loopback(worker.ip)]
    remote = [worker for worker in workers if not worker.local]
    for worker in loopback if remote else ():
        errors.append(
            f"row {worker.row}, column ip: {worker.ip!r}: {remote[0].ip} in row {remote[0].row} cannot reach a learner "
            "there; must be an address of this machine that the other hosts can reach"
        )
    return errors + _login_errors(workers)


def _login_errors(workers: list[Worker]) -> list[str]:
    """Rows of one host with different passwords or keys."""
    errors = []
    first_of_host: dict[str, Worker] = {}
    for worker in workers:
        other = first_of_host.setdefault(worker.host, worker)
        for name in ("ssh_password", "ssh_key_file"):
            value, other_value = getattr(worker, name), getattr(other, name)
            if not worker.local and value and other_value and value != other_value:
                shown = "" if name == "ssh_password" else f"{value!r}: "
                errors.append(
                    f"row {worker.row}, column {name}: {shown}differs from row {other.row}, which is the same host"
                )
    return errors


def csv_warnings(path: str, workers: list[Worker]) -> list[str]:
    """A warning if the CSV contains passwords that other users can read."""
    try:
        mode = Path(path).stat().st_mode & 0o777
    except OSError:
        return []
    if mode & 0o077 and any(worker.ssh_password for worker in workers):
        return [
            f"warning: {path} contains passwords that other users can read (mode {mode:04o}); run: chmod 600 {path}"
        ]
    return []
