"""The frontend's record of a run, in LOGDIR/cluster/run.json: CSV rows, flags, and every host that was contacted.

The file is written atomically. It never contains a password: those come from the CSV, a prompt or the environment each
time. Not here: the state of workers, which only their hosts know.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mlma.cluster.options import Options
from mlma.cluster.planning.hosts import Host
from mlma.cluster.planning.launch_plan import run_name
from mlma.cluster.planning.workers_csv import Worker
from mlma.core.config import flag_table, parse
from mlma.core.config.flags import current_names
from mlma.core.config.flags import flag_table as option_table
from mlma.core.config.limits import MAX_ACTORS
from mlma.utils.atomic_file import atomic_write
from mlma.utils.input_file import read_json_file
from mlma.utils.own_files import check_own_file, check_own_folder
from mlma.utils.user_text import printable, shown

Record = TypeVar("Record")
PERSISTED_FLAGS = (  # of the frontend, which a run keeps from one call to the next
    "workers_csv_path", "tmux_sess", "channel", "remote_folder", "mpirun", "mpirun_args", "container", "ssh_key_file",
    "env", "known_hosts", "worker_restarts", "restart_seconds", "worker_hang_seconds", "start_seconds", "stop_seconds",
)  # fmt: skip


@dataclasses.dataclass
class State:
    """The content of run.json."""

    folder: Path  # LOGDIR/cluster
    id: str = ""
    workers: list[Worker] = dataclasses.field(default_factory=list)
    argv: list[str] = dataclasses.field(default_factory=list)  # training flags
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of PERSISTED_FLAGS, those that were given
    actors: int = 0  # number of actors after `scale`; 0: as many as the rows say
    # On which something of the run may be left.
    contacted_hosts: dict[str, Host] = dataclasses.field(default_factory=dict)
    up: bool = False  # from the first host that `up` contacted to a `down` that reached every host
    ending: bool = False  # `down` was called, and no `up` since
    away: list[str] = dataclasses.field(default_factory=list)  # keys of hosts whose actors `keep` has moved to others
    name: str = ""  # of the run, as long as something of it may be left on hosts
    session: str = ""  # name of its folder on hosts
    logdir: str = ""  # in which the file was written; another one if the folder was copied or moved since

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "run.json"

    def save(self) -> None:
        """Writes the file, without passwords."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logdir = str(self.folder.parent)
        values = {name: value for name, value in vars(self).items() if name != "folder"}
        values["workers"] = [
            dataclasses.asdict(dataclasses.replace(worker, ssh_password="")) for worker in self.workers
        ]
        values["contacted_hosts"] = {key: dataclasses.asdict(host) for key, host in dict(self.contacted_hosts).items()}
        with atomic_write(self.path, mode=0o600) as file:
            file.write(json.dumps(values, indent=1).encode() + b"\n")


def load_state(logdir: str) -> State:
    """The state of the run in `logdir`, or a new one; ValueError if run.json cannot be read, or is another user's.

    It holds commands that the caller would execute. `logdir` itself may belong to the user of the first learner's host.
    """
    folder = Path(logdir).absolute() / "cluster"
    check_state_folder(folder, f"--logdir={logdir}")
    state = State(folder, id=secrets.token_hex(6))
    try:
        values = read_json_file(state.path)
        _update_names(values)
        values["workers"] = [_record(Worker, worker) for worker in values["workers"]]
        hosts = values["contacted_hosts"].items()
        values["contacted_hosts"] = {
            key: _record(Host, host | {"python": tuple(host["python"])}) for key, host in hosts
        }
        values["options"] = _checked_options(values["options"])
        config = parse(values["argv"])
        loaded = _record(State, {"folder": folder} | values)
        if loaded.contacted_hosts and not loaded.session:  # of an earlier version: folders had the name of the run
            loaded.session = loaded.name = run_name(merged_options(loaded, {}), config.replace(logdir=logdir))
        if max(loaded.actors, sum(worker.num_actors for worker in loaded.workers)) > MAX_ACTORS:
            raise ValueError(f"more than {MAX_ACTORS} actors")
    except FileNotFoundError:
        return state
    except OSError as error:
        raise ValueError(f"--logdir={shown(logdir)}: {printable(str(state.path))}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{printable(str(state.path))}: not the state of a run ({error}); inspect it, then remove it"
        ) from None
    _check_copy(loaded)
    return loaded


def _check_copy(state: State) -> None:
    """Gives the state in a copied logdir an id of its own; ValueError if the copy was made while the run was up."""
    original = Path(state.logdir, "cluster", "run.json")
    try:
        copied = bool(state.logdir) and not original.samefile(state.path) and read_json_file(original)["id"] == state.id
    except (OSError, ValueError, TypeError, KeyError):
        return  # moved: nothing is left there
    if copied and state.contacted_hosts:
        raise ValueError(
            f"{printable(str(state.path))}: a copy of the state of the run in {printable(state.logdir)}, which is up; "
            f"use that logdir, or remove {printable(str(state.folder))} to start another run here"
        )
    if copied:
        state.id, state.name, state.session = secrets.token_hex(6), "", ""


def _record(cls: Callable[..., Record], values: dict[str, Any]) -> Record:
    """A dataclass from a file; TypeError for a field that it does not have, or of another type."""
    record = cls(**values)
    types = typing.get_type_hints(cls)
    for name, value in vars(record).items():
        kind = typing.get_origin(types[name]) or types[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise TypeError(f"{name} must be {kind.__name__}, is {type(value).__name__}")
    return record


def _checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """The flags of the frontend that a run keeps; ValueError for a value that a command line could not give.

    A file that they name may be gone: `down` must work all the same.
    """
    checked = {}
    for name, value in options.items():
        if name not in PERSISTED_FLAGS:
            raise ValueError(f"{shown(name)}: no such flag of the frontend")
        if not isinstance(value, str | int | float):
            raise TypeError(f"--{name} must be a value, is {type(value).__name__}")
        flag = dataclasses.replace(option_table(Options)[name], check=None)
        checked[name] = flag.parse(flag.format(value))
        flag.check_bounds(checked[name])
    return checked


def check_state_folder(folder: Path, name: str) -> None:
    """ValueError in one line if anyone but the caller and root could have written what is in the folder."""
    check_own_folder(folder, f"{name}: cluster/")
    for path in (folder, folder / "run.json"):
        if path.is_symlink():
            raise ValueError(f"{name}: {path} is a link; must be in the logdir itself")
        check_own_file(path, str(path))
    if folder.exists() and folder.stat().st_mode & 0o022:
        raise ValueError(f"{name}: others can write to {folder}; allowed after: chmod go-w {folder}")


def merged_options(state: State, given_options: dict[str, Any]) -> Options:
    """The options that the run keeps, overridden by those of this call."""
    return Options(**(state.options | given_options))


def _update_names(values: dict[str, Any]) -> None:
    """Replaces the names that earlier versions wrote."""
    if "touched" in values:
        values["contacted_hosts"] = values.pop("touched")
    option_names, flag_names = current_names(option_table(Options)), current_names(flag_table())
    values["options"] = {option_names.get(name, name): value for name, value in values["options"].items()}
    values["options"].pop("tunnel", None)  # --channel=ssh is the default now
    words = [word.removeprefix("--").partition("=") for word in values["argv"]]
    values["argv"] = [f"--{flag_names.get(name, name)}{equals}{text}" for name, equals, text in words]
