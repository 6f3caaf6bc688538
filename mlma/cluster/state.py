"""What the frontend remembers of a run, in LOGDIR/cluster/run.json: which rows, which flags, which hosts were ever touched.

Written whole or not at all. Never a password: those come from the CSV, a prompt or the environment each time. Not here: what
workers do at the moment, which only their hosts know.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from pathlib import Path
from typing import Any

from mlma.cluster.options import Options
from mlma.cluster.planning.launch_plan import Host
from mlma.cluster.planning.workers_csv import Worker
from mlma.utils.atomic_file import atomic_write

PERSISTED_FLAGS = (  # flags of ours that a run keeps from one call to the next
    "workers_csv_path", "tmux_sess", "tunnel", "remote_folder", "mpirun", "mpirun_args", "container", "ssh_key_file",
    "known_hosts", "worker_restarts", "restart_seconds", "worker_hang_seconds", "stop_seconds",
)  # fmt: skip


@dataclasses.dataclass
class State:
    folder: Path  # LOGDIR/cluster
    id: str = ""
    workers: list[Worker] = dataclasses.field(default_factory=list)
    argv: list[str] = dataclasses.field(default_factory=list)  # training flags
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    actors: int = 0  # if another number than that of the rows was asked for
    touched: dict[str, Host] = dataclasses.field(default_factory=dict)
    up: bool = False  # from `up` to a `down` that reached every host

    @property
    def path(self) -> Path:
        return self.folder / "run.json"

    def save(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        values = {name: value for name, value in vars(self).items() if name not in ("folder", "workers", "touched")}
        values["workers"] = [
            dataclasses.asdict(dataclasses.replace(worker, ssh_password="")) for worker in self.workers
        ]
        values["touched"] = {key: dataclasses.asdict(host) for key, host in self.touched.items()}
        with atomic_write(self.path) as file:
            file.write(json.dumps(values, indent=1).encode() + b"\n")


def load_state(logdir: str) -> State:
    """A new one where there is none; ValueError if the file is none of ours."""
    folder = Path(logdir).absolute() / "cluster"
    state = State(folder, id=secrets.token_hex(6))
    if not state.path.exists():
        return state
    try:
        values = json.loads(state.path.read_text())
        values["workers"] = [Worker(**worker) for worker in values["workers"]]
        hosts = values["touched"].items()
        values["touched"] = {key: Host(**(host | {"python": tuple(host["python"])})) for key, host in hosts}
        return State(folder, **values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{state.path}: is not the state of a run ({error}); look what it is, then remove it"
        ) from None


def merged_options(state: State, given: dict[str, Any]) -> Options:
    """What the run keeps, then what this call says."""
    return Options(**(state.options | given))
