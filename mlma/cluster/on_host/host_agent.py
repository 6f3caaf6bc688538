"""What the frontend has done on a host: start, status, stop, logs, authorize. Its source travels with each request.

Runs under any Python 3.8 or later without anything installed, in the home of the account, and answers in JSON. The folder of a
run is .mlma/SESSION/HOST; for each worker NAME, workers/NAME.spec says what to run and workers/NAME.json what became of it. A
process is ours if a supervisor of the run recorded it (id and birth), or if MLMA_RUN in its environment is this run: nothing
else is touched. Not here: restarts (mlma/cluster/on_host/supervisor.py), the questions of `check` (mlma/cluster/on_host/preflight.py).
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

ALIVE = ("starting", "running", "waiting")
TAIL_BYTES = 16384  # bytes of a log that are looked at
START_TIMEOUT_SECONDS = 10.0  # seconds for a supervisor to begin


class Run:
    def __init__(self, session: str, run_id: str, folder: str) -> None:
        self.session, self.id = session, run_id
        self.folder = Path(folder)  # relative: windows begin in the home, too
        self.workers = self.folder / "workers"

    # -- what is there

    def records(self) -> dict[str, dict[str, Any]]:
        """Name -> what became of the worker; "gone" if its supervisor is no more without having said why."""
        found = {}
        for spec in sorted(self.workers.glob("*.spec")):
            record = read_json(spec.with_suffix(".json")) or {
                "state": "starting",
                "pid": 0,
                "since": 0.0,
                "why": "",
                "restarts": 0,
            }
            if record["state"] in ALIVE and not is_alive(record):
                rebooted = record.get("boot") and record["boot"] != boot_id()
                record["why"] = "the host was started again" if rebooted else "killed from outside, its supervisor too"
                record["state"] = "gone"
            found[spec.stem] = record
        return found

    def tmux(self, *words: str) -> str | None:
        """Output, or None if tmux refuses."""
        environment = {k: v for k, v in os.environ.items() if k not in ("TMUX", "MLMA_SSH_PASSWORD", "MLMA_TOKEN")}
        done = subprocess.run(["tmux", "-u", *words], capture_output=True, text=True, env=environment)
        return done.stdout if done.returncode == 0 else None

    def owner(self) -> str | None:
        """The run that made the session of this name; "" if it was another program."""
        if self.tmux("has-session", "-t", f"={self.session}") is None:
            return None
        return (self.tmux("show-options", "-qv", "-t", f"={self.session}:", "@mlma_run") or "").strip()

    # -- start

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        lacking = missing(request)
        if lacking:
            return {"problem": lacking}
        for folder in (*reversed(self.folder.parents[:2]), self.folder, self.folder / "logs", self.workers):
            folder.mkdir(mode=0o700, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two frontends at once
            owner = self.owner() if request["windows"] else None
            if owner is not None and owner != self.id:
                whose = "another run" if owner else "somebody else"
                return {
                    "problem": f"there is a tmux session {self.session!r} of {whose}; end it, or choose another --tmux_sess"
                }
            home = str(Path.home())
            for name, (text, mode) in request["files"].items():
                write_file(self.folder / name, text.replace("@HOME@", home), mode)
            before = self.records()
            wanted = {spec["name"]: spec for spec in request["windows"]}
            extra = [name for name, record in before.items() if name not in wanted] if request["prune"] else []
            stopped = self.stop_workers(extra, 15.0)
            for name in extra:
                for suffix in (".spec", ".json"):
                    (self.workers / f"{name}{suffix}").unlink(missing_ok=True)
            begun, already, differ = [], [], []
            for name, spec in wanted.items():
                spec["env"] |= {"MLMA_RUN": self.id, "MLMA_WORKER": name}
                if before.get(name, {"state": ""})["state"] in ALIVE:
                    already.append(name)
                    if (read_json(self.workers / f"{name}.spec") or {}).get("words") != spec["words"]:
                        differ.append(name)
                    else:
                        write_file(self.workers / f"{name}.spec", json.dumps(spec), 0o600)
                    continue
                write_file(
                    self.workers / f"{name}.json",
                    json.dumps({"state": "starting", "pid": 0, "since": time.time()}),
                    0o600,
                )
                write_file(self.workers / f"{name}.spec", json.dumps(spec), 0o600)
                begun.append(name)
            problem = self.open_windows(begun, request["python"])
        return {"started": begun, "already": already, "differ": differ, "stopped": stopped, "problem": problem}

    def open_windows(self, names: list[str], python: list[str]) -> str:
        """What went wrong, or nothing."""
        for name in names:
            command = [*python, f"{self.folder}/supervisor.py", f"{self.workers}/{name}.spec"]
            if self.owner() is None:
                new = ["new-session", "-d", "-x", "160", "-y", "48", "-s", self.session]
            else:
                new = ["new-window", "-d", "-t", f"={self.session}:"]
            window = self.tmux(*new, "-P", "-F", "#{window_id}", "-n", name, *command)
            if window is None:
                return "tmux refuses to open a window"
            self.tmux("set-option", "-t", f"={self.session}:", "@mlma_run", self.id)
            self.tmux("set-option", "-w", "-t", window.strip(), "@mlma_worker", name)
            self.tmux("set-option", "-w", "-t", window.strip(), "remain-on-exit", "off")
        end = time.monotonic() + START_TIMEOUT_SECONDS
        silent = list(names)
        while silent and time.monotonic() < end:
            time.sleep(0.03)
            silent = [name for name in silent if not (read_json(self.workers / f"{name}.json") or {}).get("pid")]
        return f"did not begin within {START_TIMEOUT_SECONDS:.0f} s: {', '.join(silent)}" if silent else ""

    # -- stop

    def stop_workers(self, names: list[str], seconds: float) -> list[str]:
        """Asks, waits, kills; those that had to be asked."""
        alive = {name: record for name, record in self.records().items() if name in names and record["state"] in ALIVE}
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

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        names = list(self.records()) if request["names"] is None else request["names"]
        stopped = self.stop_workers(names, request["seconds"])
        records = self.records()
        answer: dict[str, Any] = {
            "stopped": stopped,
            "records": {name: records[name] for name in names if name in records},
        }
        return answer | (self.leave() if request["final"] else {})

    def leave(self) -> dict[str, Any]:
        """Takes away all that this run brought, but for its logs."""
        forced = [pid for pid in processes_of_run(self.id) if send_signal(pid, signal.SIGTERM)]
        end = time.monotonic() + 3
        while processes_of_run(self.id) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in processes_of_run(self.id):
            send_signal(pid, signal.SIGKILL)
        left = ""
        if self.owner() == self.id:
            windows = self.tmux("list-windows", "-t", f"={self.session}", "-F", "#{window_id} #{@mlma_worker}") or ""
            for line in windows.splitlines():
                window, _, worker = line.partition(" ")
                if worker:
                    self.tmux("kill-window", "-t", window)
            if self.owner() == self.id:
                left = f"the tmux session {self.session!r} has windows that the run did not make; it was left"
                self.tmux("set-option", "-u", "-t", f"={self.session}:", "@mlma_run")
        self.remove_dead_socket()
        authorize(f"{self.id}-{self.folder.name}", [])
        if self.folder.is_dir():
            for folder in (self.workers, self.folder / "health"):
                shutil.rmtree(folder, ignore_errors=True)
            for path in self.folder.iterdir():
                if path.name != "logs":
                    path.unlink()
            for folder in (self.folder / "logs", self.folder, *self.folder.parents[:2]):
                with contextlib.suppress(OSError):  # logs stay
                    folder.rmdir()
        return {"forced": forced, "left": left}

    def remove_dead_socket(self) -> None:
        """What tmux leaves behind when its last session ends, which takes it a moment."""
        path = Path(os.environ.get("TMUX_TMPDIR", "/tmp")) / f"tmux-{os.getuid()}" / "default"
        end = time.monotonic() + 2
        while path.exists() and not self.tmux("list-sessions") and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                    time.sleep(0.05)
                except ConnectionRefusedError:  # nobody listens
                    path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()

    # -- look

    def status(self, request: dict[str, Any]) -> dict[str, Any]:
        records = self.records()
        for name, record in records.items():
            text, _ = tail(self.folder / "logs" / f"{name}.log", TAIL_BYTES)
            record["tail"] = [line for line in text.splitlines() if line.strip()][-40:]
        metrics = last_rows(request.get("logdir", ""), request.get("rows", 1))
        return {"records": records, "metrics": metrics, "now": time.time()}

    def logs(self, request: dict[str, Any]) -> dict[str, Any]:
        """Name -> [text, where it ends]; from there if the request says so, else the last lines."""
        answer = {}
        for name, offset in request["names"].items():
            path = self.folder / "logs" / f"{name}.log"
            if offset is None:
                text, end = tail(path, 200 * request["lines"] + TAIL_BYTES)
                answer[name] = ["".join(text.splitlines(True)[-request["lines"] :]), end]
            elif path.exists():
                offset = 0 if path.stat().st_size < offset else offset
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(1_000_000)
                answer[name] = [data.decode(errors="replace"), offset + len(data)]
        return answer


def missing(request: dict[str, Any]) -> str:
    """What this host lacks, in one line."""
    for tool in request["tools"]:
        if shutil.which(os.path.expandvars(tool)) is None:
            return f"lacks {tool}"
    for path in request["paths"]:
        if not os.path.exists(path):
            return f"lacks {path}: is the code there? (--sync copies it; the column folder names another place)"
    return ""


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def write_file(path: Path, text: str, mode: int) -> None:
    """Whole or not at all, and never readable by others for a moment."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_alive(record: dict[str, Any]) -> bool:
    """The supervisor that wrote this record, and no later process with its id."""
    try:
        fields = Path(f"/proc/{record['pid']}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and fields[19] == record.get("birth")


def send_signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def processes_of_run(run_id: str) -> list[int]:
    """Processes of this account that the run has started, directly or not."""
    mark, found = f"MLMA_RUN={run_id}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == os.getuid() and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def authorize(mark: str, lines: list[str]) -> dict[str, Any]:
    """Makes these the lines of this run and host in authorized_keys; every other line stays as it is."""
    path = Path(os.path.realpath(".ssh/authorized_keys"))
    path.parent.mkdir(mode=0o700, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    with contextlib.suppress(
        OSError
    ):  # hosts that share a home are asked at the same time; some file systems know no locks
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        before = path.read_text() if path.exists() else ""
        kept = [line for line in before.splitlines(True) if not line.rstrip().endswith(f" mlma-{mark}")]
        if kept and not kept[-1].endswith("\n"):
            kept[-1] += "\n"
        after = "".join(kept) + "".join(f"{line} mlma-{mark}\n" for line in lines)
        if after.rstrip("\n") != before.rstrip("\n"):
            write_file(path, after, 0o600)
    finally:
        os.close(folder)
    return {}


def tail(path: Path, size: int) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read().decode(errors="replace"), end
    except OSError:
        return "", 0


def last_rows(logdir: str, count: int) -> list[dict[str, float]]:
    """What the learners last reported, and how many seconds ago."""
    path = Path(logdir) / "metrics.csv"
    if not logdir or not path.exists():
        return []
    with path.open(newline="") as file:
        header = next(csv.reader([file.readline()]), [])
    found = []
    for line in tail(path, TAIL_BYTES)[0].splitlines()[-count:]:
        row = {"age": time.time() - path.stat().st_mtime}
        for name, text in zip(header, next(csv.reader([line]), [])):  # noqa: B905  # hosts may have an older Python
            with contextlib.suppress(ValueError):
                row[name] = float(text or "nan")
        if "frames" in row:  # else it is the header
            found.append(row)
    return found


def answer(request: dict[str, Any]) -> dict[str, Any]:
    os.chdir(Path.home())
    if request["verb"] == "authorize":
        return authorize(f"{request['id']}-{Path(request['folder']).name}", request["lines"])
    run = Run(request["session"], request["id"], request["folder"])
    return {"start": run.start, "stop": run.stop, "status": run.status, "logs": run.logs}[request["verb"]](request)
