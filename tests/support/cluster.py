"""The frontend as a user calls it, on the hosts of tests/support/hosts.py: CSVs, calls, and what a run leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.cheap import cheap_python
from tests.support.hosts import Host, Hosts
from tests.support.runs import ROOT, wait_for

COLUMNS = (
    "job,ip,tf_port,cuda_visible_devices,ssh_port,ssh_username,ssh_password,ssh_key_file,folder,python,envs_per_actor,"
    "num_actors"
)


@dataclasses.dataclass
class Cluster:
    """A run on these hosts. `python` runs its workers."""

    hosts: Hosts
    folder: Path
    python: str
    name: str = "run"

    @classmethod
    def cheap(cls, hosts: Hosts, folder: Path) -> Cluster:
        """With the stand-in workers of tests/support/cheap.py."""
        folder.chmod(0o755)
        return cls(hosts, folder, cheap_python(folder))

    @property
    def logdir(self) -> Path:
        """The run's logdir; every host can write to it."""
        return self.folder / self.name

    def row(self, job: str, host: Host, **fields: Any) -> str:
        """A row of the CSV."""
        values = {
            "job": job, "ip": host.ip, "ssh_username": host.name, "ssh_key_file": self.hosts.key, "folder": ROOT,
            "python": self.python,
        }  # fmt: skip
        values |= fields
        return ",".join(str(values.get(column, "")) for column in COLUMNS.split(","))

    def csv(self, rows: list[str], name: str = "workers.csv") -> str:
        """Writes a CSV. Returns the flag that names it."""
        path = self.folder / name
        path.write_text("\n".join([COLUMNS, *rows]) + "\n")
        path.chmod(0o600)
        return f"--workers_csv_path={path}"

    def two_learners(self) -> str:
        """A CSV with two learners on two hosts and six actors on three."""
        first, second, *others = self.hosts.all
        rows = [self.row("learner", first), self.row("learner", second)]
        return self.csv([*rows, *(self.row("actor", host, num_actors=2) for host in (second, *others))])

    def command(self, *arguments: str) -> list[str]:
        """The frontend's command line, with the flags that every call here needs."""
        self.logdir.mkdir(exist_ok=True)
        self.logdir.chmod(0o1777)  # learners run as other users, who must not replace the files of each other
        known_hosts = self.folder / "known_hosts"
        if not known_hosts.exists():
            self.hosts.known_hosts(known_hosts)
        if not any(argument.startswith("--known_hosts") for argument in arguments):
            arguments = (*arguments, f"--known_hosts={known_hosts}")
        mpirun = f"--mpirun={Path(sys.executable).parent}/mpirun"
        frontend = str(ROOT / "run_experiment_mm_raw.py")
        return [sys.executable, frontend, *arguments, f"--logdir={self.logdir}", mpirun]

    def call(self, *arguments: str, code: int | None = 0, seconds: float = 120, **env: str) -> str:
        """Runs the frontend and checks its exit code, unless that is None. Returns its output."""
        environment = {k: v for k, v in os.environ.items() if k not in ("SSH_AUTH_SOCK", "TMUX")} | env
        result = subprocess.run(
            self.command(*arguments), cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds, env=environment,
        )  # fmt: skip
        output = result.stdout + result.stderr
        assert code is None or result.returncode == code, f"{arguments}: code {result.returncode}\n{output}"
        return output

    def folder_on(self, host: Host) -> Path:
        """The run's folder on a host."""
        session = json.loads((self.logdir / "cluster/run.json").read_text())["session"]
        return host.home / ".mlma" / session / host.ip

    def processes_on(self, host: Host) -> set[int]:
        """The processes of this run on a host."""
        mark = f"MLMA_RUN={json.loads((self.logdir / 'cluster/run.json').read_text())['id']}".encode()
        found = set()
        for pid in host.pids():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.add(pid)
        return found

    def tmux(self, host: Host, *arguments: str, check: bool = True) -> str:
        """Calls the run's tmux server on a host."""
        return host.run("tmux", "-S", f"{self.folder_on(host)}/tmux", *arguments, user=True, check=check)

    def states(self) -> dict[str, str]:
        """Worker -> state, from the table of `status`."""
        text = self.call("status", code=None, COLUMNS="200")
        lines = [line.split() for line in text.splitlines()]
        rows = [cells for cells in lines if len(cells) > 2 and re.fullmatch(r"(learner|actor|tunnel)-\d+", cells[0])]
        return {cells[0]: cells[2] for cells in rows if cells[1] != "on"}  # "on": a problem below the table

    def until(self, wanted: dict[str, str] | str, seconds: float = 60) -> None:
        """Waits until these workers, or all, are in a state."""
        states: dict[str, str] = {}

        def reached() -> bool:
            states.clear()
            states.update(self.states())
            expected = dict.fromkeys(states, wanted) if isinstance(wanted, str) else wanted
            return bool(states) and all(states.get(name) == state for name, state in expected.items())

        wait_for(reached, seconds, lambda: f"wanted {wanted}, is {states}\n{self.call('status', code=None)}")

    def left(self) -> dict[str, list[str]]:
        """What exists of a run on each host: processes, and files that are not logs."""
        left = {}
        for host in self.hosts:
            files = host.run("find", str(host.home), "/tmp/", "-maxdepth", "5", "-user", host.name, check=False).split()
            leftovers = [
                path
                for path in files
                if "/.mlma/" in path and "/logs" not in path and not re.search(r"/.mlma/[^/]+(/[\d.-]+)?$", path)
            ]
            leftovers += [
                path for path in files if path.startswith("/tmp/tmux-") or "/prte." in path or "/ompi." in path
            ]
            authorized_keys = (host.home / ".ssh/authorized_keys").read_text()
            leftovers += [line for line in authorized_keys.splitlines() if " mlma-" in line]
            left[host.name] = host.processes() + leftovers
        return {name: leftovers for name, leftovers in left.items() if leftovers}
