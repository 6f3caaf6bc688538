"""The frontend as a user calls it, on hosts of tests/support/hosts.py: CSVs for them, the calls, and what they leave behind."""

from __future__ import annotations

import dataclasses
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
    """A run on these hosts; `python` runs its workers."""

    hosts: Hosts
    folder: Path
    python: str
    name: str = "run"

    @classmethod
    def cheap(cls, hosts: Hosts, folder: Path) -> Cluster:
        """With workers that cost nothing."""
        folder.chmod(0o755)
        return cls(hosts, folder, cheap_python(folder))

    @property
    def logdir(self) -> Path:
        return self.folder / self.name

    def row(self, job: str, host: Host, **fields: Any) -> str:
        values = {
            "job": job, "ip": host.ip, "ssh_username": host.name, "ssh_key_file": self.hosts.key, "folder": ROOT,
            "python": self.python,
        }  # fmt: skip
        values |= fields
        return ",".join(str(values.get(column, "")) for column in COLUMNS.split(","))

    def csv(self, rows: list[str], name: str = "workers.csv") -> str:
        path = self.folder / name
        path.write_text("\n".join([COLUMNS, *rows]) + "\n")
        path.chmod(0o600)
        return f"--workers_csv_path={path}"

    def two_learners(self) -> str:
        """Two learners on two hosts, six actors on three."""
        first, second, *others = self.hosts.all
        rows = [self.row("learner", first), self.row("learner", second)]
        return self.csv([*rows, *(self.row("actor", host, num_actors=2) for host in (second, *others))])

    def words(self, *words: str) -> list[str]:
        self.logdir.mkdir(exist_ok=True)
        self.logdir.chmod(0o777)  # the learners are another user
        known = self.folder / "known_hosts"
        if not known.exists():
            self.hosts.known_hosts(known)
        if not any(word.startswith("--known_hosts") for word in words):
            words = (*words, f"--known_hosts={known}")
        mpirun = f"--mpirun={Path(sys.executable).parent}/mpirun"
        return [sys.executable, str(ROOT / "run_experiment_mm_raw.py"), *words, f"--logdir={self.logdir}", mpirun]

    def call(self, *words: str, code: int | None = 0, seconds: float = 120, **env: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("SSH_AUTH_SOCK", "TMUX")} | env
        done = subprocess.run(
            self.words(*words), cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds,
            env=environment,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert code is None or done.returncode == code, f"{words}: code {done.returncode}\n{said}"
        return said

    def states(self) -> dict[str, str]:
        """Worker -> state, as `status` says."""
        text = self.call("status", code=None, COLUMNS="200")
        lines = [line.split() for line in text.splitlines()]
        rows = [words for words in lines if len(words) > 2 and re.fullmatch(r"(learner|actor|tunnel)-\d+", words[0])]
        return {words[0]: words[2] for words in rows if words[1] != "on"}  # not the reasons below the table

    def until(self, wanted: dict[str, str] | str, seconds: float = 60) -> None:
        """Waits until these workers, or all, are in a state."""
        seen: dict[str, str] = {}

        def reached() -> bool:
            seen.clear()
            seen.update(self.states())
            asked = dict.fromkeys(seen, wanted) if isinstance(wanted, str) else wanted
            return bool(seen) and all(seen.get(name) == state for name, state in asked.items())

        wait_for(reached, seconds, lambda: f"wanted {wanted}, is {seen}\n{self.call('status', code=None)}")

    def left(self) -> dict[str, list[str]]:
        """What there is of a run on each host: processes, and files that are no logs."""
        found = {}
        for host in self.hosts:
            files = host.run("find", str(host.home), "/tmp/", "-maxdepth", "5", "-user", host.name, check=False).split()
            odd = [
                path
                for path in files
                if "/.mlma/" in path and "/logs" not in path and not re.search(r"/.mlma/[^/]+(/[\d.-]+)?$", path)
            ]
            odd += [path for path in files if path.startswith("/tmp/tmux-") or "/prte." in path or "/ompi." in path]
            odd += [line for line in (host.home / ".ssh/authorized_keys").read_text().splitlines() if " mlma-" in line]
            found[host.name] = host.processes() + odd
        return {name: here for name, here in found.items() if here}
