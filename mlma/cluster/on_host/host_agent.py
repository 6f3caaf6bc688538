"""The frontend's helper on a host: start, stop, status, logs, authorize.

Its source and that of host_files.py are sent with each request. They need only Python 3.8 or later and its standard
library. Runs in the home directory of the account and answers in JSON. The run's folder is .mlma/NAME-ID/HOST, where ID
tells runs of one name apart; for each worker, workers/WORKER.spec says what to run and workers/WORKER.json contains its
state. The socket of the run's own tmux server is there, too. A process belongs to the run if a supervisor recorded it
(process id and start time), or if MLMA_RUN in its environment is the run's id; no other is ended. Not here: restarts
(mlma/cluster/on_host/supervisor.py), `check` (mlma/cluster/on_host/preflight.py).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from mlma.cluster.on_host.disks import full_disk, full_disks
from mlma.cluster.on_host.host_files import (
    TAIL_BYTES,
    authorize,
    boot_id,
    exclusive,
    is_alive,
    last_rows,
    processes_of_run,
    read_json,
    read_tail,
    send_signal,
    write_file,
)

ALIVE_STATES = ("starting", "running", "waiting")
SECRETS = ("MLMA_TOKEN", "MLMA_SSH_PASSWORD")
HOME_PLACEHOLDER = "@HOME@"  # in texts of the frontend: the home directory
TAIL_LINES = 40  # of them that are sent
MAX_LOG_ANSWER_BYTES = 1_000_000
PRUNE_SECONDS = 15.0  # for a worker whose row is gone to end before it is killed
LEFTOVER_SECONDS = 3.0  # the same for processes that no supervisor ended
LOCK_SECONDS = 15.0  # for an earlier request to end
TMUX_SECONDS = 10.0  # for an answer of tmux
TMUX_SOCKET = "tmux"  # in the run's folder
START_TIMEOUT_SECONDS = 10.0  # for a supervisor to start
FORMER_RECORD_NAMES = {"why": "reason", "birth": "start_time"}  # of earlier versions


class Run:
    """One run on this host."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.name, self.id = request["name"], request["id"]
        # Relative, since tmux windows start in the home directory, too.
        self.folder = Path(request["folder"])
        self.workers = self.folder / "workers"
        self.tmux_problem = ""

    def own_specs(self) -> list[Path]:
        """The specs of this run. Earlier versions gave runs of one name one folder."""
        paths = sorted(self.workers.glob("*.spec"))
        return [path for path in paths if self.id == (read_json(path) or {}).get("env", {}).get("MLMA_RUN", self.id)]

    def records(self) -> dict[str, dict[str, Any]]:
        """Name -> state of each worker; "gone" if its supervisor is gone without having recorded an end."""
        records = {}
        for spec in self.own_specs():
            record = read_json(spec.with_suffix(".json")) or {
                "state": "starting",
                "pid": 0,
                "since": 0.0,
                "restarts": 0,
            }
            record = {FORMER_RECORD_NAMES.get(name, name): value for name, value in record.items()}
            if record["state"] in ALIVE_STATES and not is_alive(record):
                rebooted = record.get("boot") and record["boot"] != boot_id()
                record["reason"] = "the host was rebooted" if rebooted else "killed together with its supervisor"
                record["state"] = "gone"
            records[spec.stem] = record
        return records

    def tmux(self, *argv: str) -> str | None:
        """Output of a command to the run's own tmux server, which reads no configuration; None if it failed."""
        environment = {name: value for name, value in os.environ.items() if name != "TMUX" and name not in SECRETS}
        command = ["tmux", "-u", "-S", str(Path.home() / self.folder / TMUX_SOCKET), "-f", os.devnull, *argv]
        try:
            result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TMUX_SECONDS)
        except subprocess.TimeoutExpired:
            self.tmux_problem = f"tmux did not answer within {TMUX_SECONDS:.0f} s"
            return None
        self.tmux_problem = result.stderr.strip()
        return result.stdout if result.returncode == 0 else None

    # -- start

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Starts the workers that are not running, and stops those that are not in the request."""
        problem = missing_requirement(request)
        if problem:
            return {"problem": problem}
        with exclusive(self.folder, LOCK_SECONDS):
            for folder in (self.folder / "logs", self.workers):
                folder.mkdir(mode=0o700, exist_ok=True)
            for name, (text, mode) in request["files"].items():
                write_file(self.folder / name, text.replace(HOME_PLACEHOLDER, str(Path.home())), mode)
            records, specs = self.records(), {spec["name"]: spec for spec in request["specs"]}
            stopped = self.prune([name for name in records if name not in specs])
            alive = {name for name, record in records.items() if record["state"] in ALIVE_STATES}
            written = {name: self.write_spec(spec, name in alive) for name, spec in specs.items()}
            started = [name for name in specs if name not in alive]
            problem = self.open_windows(started, request["python"])
        running = [name for name in specs if name in alive]
        changed = [name for name in running if not written[name]]
        return {"started": started, "running": running, "changed": changed, "stopped": stopped, "problem": problem}

    def prune(self, names: list[str]) -> list[str]:
        """Stops workers and forgets them. Returns those that were running."""
        stopped = self.stop_workers(names, PRUNE_SECONDS)
        for name in names:
            for suffix in (".spec", ".json"):
                (self.workers / f"{name}{suffix}").unlink(missing_ok=True)
        return stopped

    def write_spec(self, spec: dict[str, Any], alive: bool) -> bool:
        """Writes what to run. False, without writing, if the worker is running with another command."""
        name = spec["name"]
        spec["env"].update({"MLMA_RUN": self.id, "MLMA_WORKER": name})
        if alive:
            current = read_json(self.workers / f"{name}.spec") or {}
            # "words": of earlier versions
            if current.get("argv", current.get("words")) != spec["argv"] or current.get("env") != spec["env"]:
                return False
        else:
            record = {"state": "starting", "pid": 0, "since": time.time()}
            write_file(self.workers / f"{name}.json", json.dumps(record), 0o600)
        write_file(self.workers / f"{name}.spec", json.dumps(spec), 0o600)
        return True

    def open_windows(self, names: list[str], python: list[str]) -> str:
        """Starts the supervisors. Returns what failed, or nothing."""
        for name in names:
            command = [*python, f"{self.folder}/supervisor.py", f"{self.workers}/{name}.spec"]
            if self.tmux("has-session", "-t", f"={self.name}") is None:
                new = ["new-session", "-d", "-x", "160", "-y", "48", "-s", self.name]
            else:
                new = ["new-window", "-d", "-t", f"={self.name}:"]
            window = self.tmux(*new, "-P", "-F", "#{window_id}", "-n", name, *command)
            if window is None:
                return f"tmux did not open a window for {name}: {self.tmux_problem}"
            self.tmux("set-option", "-w", "-t", window.strip(), "@mlma_worker", name)
        end = time.monotonic() + START_TIMEOUT_SECONDS
        silent = list(names)
        while silent and time.monotonic() < end:
            time.sleep(0.03)
            silent = [name for name in silent if not (read_json(self.workers / f"{name}.json") or {}).get("pid")]
        return f"not started within {START_TIMEOUT_SECONDS:.0f} s: {', '.join(silent)}" if silent else ""

    # -- stop

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        """Stops workers, all of them if the request names none; a final stop also removes what the run left."""
        if not self.folder.is_dir():
            return self.stop_locked(request)
        with exclusive(self.folder, LOCK_SECONDS):
            return self.stop_locked(request)

    def stop_locked(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `stop`, while no other request changes the run here."""
        names = list(self.records()) if request["names"] is None else request["names"]
        stopped = self.stop_workers(names, request["seconds"])
        records = self.records()
        answer: dict[str, Any] = {
            "stopped": stopped,
            "records": {name: records[name] for name in names if name in records},
        }
        if request["final"]:
            answer.update(self.clean_up())
        return answer

    def stop_workers(self, names: list[str], seconds: float) -> list[str]:
        """Requests a stop, waits, then kills. Returns the workers that were running."""
        alive = {
            name: record for name, record in self.records().items() if name in names and record["state"] in ALIVE_STATES
        }
        for record in alive.values():
            send_signal(record["pid"], signal.SIGTERM)
        end = time.monotonic() + seconds
        while any(map(is_alive, alive.values())) and time.monotonic() < end:
            time.sleep(0.05)
        for name, record in alive.items():
            if is_alive(record):
                child = (read_json(self.workers / f"{name}.json") or {}).get("child")
                if child:
                    with contextlib.suppress(OSError):
                        os.killpg(child, signal.SIGKILL)
                send_signal(record["pid"], signal.SIGKILL)
        return sorted(alive)

    def clean_up(self) -> dict[str, Any]:
        """Ends and removes everything that this run brought here, except its logs."""
        killed = [pid for pid in processes_of_run(self.id) if send_signal(pid, signal.SIGTERM)]
        end = time.monotonic() + LEFTOVER_SECONDS
        while processes_of_run(self.id) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in processes_of_run(self.id):
            send_signal(pid, signal.SIGKILL)
        kept = self.close_windows()
        authorize(f"{self.id}-{self.folder.name}", [])
        for path in self.own_specs():
            path.unlink()
        if self.folder.is_dir() and not list(self.workers.glob("*.spec")):  # otherwise of another run
            for folder in (self.workers, self.folder / "health"):
                shutil.rmtree(folder, ignore_errors=True)
            for path in self.folder.iterdir():
                if path.name not in ("logs", TMUX_SOCKET if kept else ""):
                    path.unlink()
            for folder in (self.folder / "logs", self.folder, *list(self.folder.parents)[:2]):
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
        return {"killed": killed, "kept": kept}

    def close_windows(self) -> str:
        """Closes the run's tmux windows, and with the last one its server. Returns a note if others keep it."""
        windows = self.tmux("list-windows", "-a", "-F", "#{window_id} #{pid} #{@mlma_worker}")
        if windows is None:
            return ""
        others, server = False, 0
        for line in windows.splitlines():
            window, pid, worker = line.split(" ", 2)
            server, others = int(pid), others or not worker
            if worker:
                self.tmux("kill-window", "-t", window)
        if others:
            attach = f"tmux -S ~/{self.folder}/{TMUX_SOCKET} attach"
            return f"the run's tmux was kept, because it has windows that the run did not open: {attach}"
        end = time.monotonic() + LEFTOVER_SECONDS
        while send_signal(server, 0) and time.monotonic() < end:  # it takes a moment to end
            time.sleep(0.02)
        return ""

    # -- status and logs

    def status(self, request: dict[str, Any]) -> dict[str, Any]:
        """The workers' records and last lines, and the last rows of metrics.csv if the request names a logdir."""
        records = self.records()
        for name, record in records.items():
            text, _ = read_tail(self.folder / "logs" / f"{name}.log", TAIL_BYTES)
            record["tail"] = [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]
        metrics = last_rows(request.get("logdir", ""), request.get("rows", 1))
        return {"records": records, "metrics": metrics, "now": time.time(), "boot": boot_id()}

    def logs(self, request: dict[str, Any]) -> dict[str, Any]:
        """Name -> [text, offset of its end]: text from the offset in the request, or the last lines if that is None."""
        answer = {}
        for name, offset in request["names"].items():
            path = self.folder / "logs" / f"{name}.log"
            if offset is None:
                text, end = read_tail(path, 200 * request["lines"] + TAIL_BYTES)
                answer[name] = ["".join(text.splitlines(True)[-request["lines"] :]), end]
            elif path.exists():
                offset = 0 if path.stat().st_size < offset else offset  # smaller: a new log was started
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(MAX_LOG_ANSWER_BYTES)
                answer[name] = [data.decode(errors="replace"), offset + len(data)]
        return answer


def missing_requirement(request: dict[str, Any]) -> str:
    """The first tool or path that this host lacks, in one line; empty if it has all."""
    for tool in request["tools"]:
        if shutil.which(os.path.expandvars(tool)) is None:
            return f"{tool} is not installed"
    for path in request["paths"]:
        if not os.path.exists(path):
            return f"{path} does not exist (--sync copies the code; the column folder names another place)"
    return ""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Carries out one request of the frontend; "disk_full" in the answer says that the disk has no room for that."""
    os.chdir(Path.home())
    try:
        return carry_out(request)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return {"disk_full": full_disk("the home directory", ".") or f"disk full: {error}"}


def carry_out(request: dict[str, Any]) -> dict[str, Any]:
    """Carries out one request."""
    if request["action"] == "authorize":
        home = str(Path.home())
        lines = [line.replace(HOME_PLACEHOLDER, home) for line in request["lines"]]
        authorize(f"{request['id']}-{Path(request['folder']).name}", lines)
        return {"home": home}
    run = Run(request)
    actions = {"start": run.start, "stop": run.stop, "status": run.status, "logs": run.logs}
    result = actions[request["action"]](request)
    if request["action"] in ("start", "status"):
        result["disks"] = full_disks(request.get("logdir", ""))
    return result
