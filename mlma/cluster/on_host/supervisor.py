"""Supervisor of one worker, in a tmux window of its own: starts the worker, logs its output, restarts it after a crash.

    python supervisor.py .mlma/SESSION/HOST/workers/NAME.spec

The frontend copies this file to the host, so it needs only Python 3.8 or later and its standard library. NAME.json
always contains the worker's state. A worker that ends with code 0 is done. One that hangs
(mlma/monitoring/health_check.py) is killed, which counts as a crash. SIGTERM, SIGINT, or SIGHUP when the window closes,
stop the worker; it is killed after `stop_timeout` seconds. Not here: starting and stopping this program
(mlma/cluster/on_host/host_agent.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
MAX_HISTORY = 20  # runs of the worker that NAME.json lists
MAX_LOG_BYTES = 64 * 2**20  # a longer log is renamed to *.log.1, and a new one started
CHECK_SECONDS = 2.0  # between two looks at the worker's heartbeats
EXIT_USAGE = 2  # exit code for wrong flags or files: a restart does not help
ALIVE_STATES = ("starting", "running", "waiting")
SECRETS = ("MLMA_TOKEN", "MLMA_SSH_PASSWORD", "MLMA_PARENT")
FORMER_SPEC_NAMES = {  # of earlier versions
    "words": "argv", "signal": "stop_signal", "group": "signal_group", "grace": "stop_timeout", "pause": "backoff",
    "restarts": "max_restarts", "serves": "required_by", "health": "heartbeat_folder",
    "hung_seconds": "worker_hang_seconds",
}  # fmt: skip


def boot_id() -> str:
    """Id of the host's current boot; empty if the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_start_time(pid: int) -> str:
    """Start time in kernel ticks, which tells a process apart from a later one with its id; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def is_stopped(pid: int, start_time: str) -> bool:
    """Whether a signal has stopped this process; False if it is gone, or in a container with process ids of its own."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[19] == start_time and fields[0] == "T"


def die_with_parent() -> None:
    """Asks the kernel to end this process when its parent is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def read_spec(path: Path) -> dict[str, Any]:
    """The worker's spec, also if an earlier version wrote it."""
    return {FORMER_SPEC_NAMES.get(name, name): value for name, value in json.loads(path.read_text()).items()}


class Supervisor:
    """Runs one worker until it is done, stopped, or has crashed too often."""

    def __init__(self, spec_path: Path) -> None:
        self.spec_path, self.path = spec_path, spec_path.with_suffix(".json")
        self.spec = read_spec(spec_path)
        self.stop_requested_at: float | None = None
        self.kill_requested = self.window_closed = self.no_longer_required = False
        self.log: Any = None
        self.record: dict[str, Any] = {
            "name": self.spec["name"], "state": "starting", "reason": "", "since": time.time(),
            "pid": os.getpid(), "start_time": process_start_time(os.getpid()), "boot": boot_id(),
            "child": 0, "code": None, "restarts": 0, "next": 0.0, "history": [],
        }  # fmt: skip

    def main(self) -> int:
        """Runs the worker, and again after a crash, with growing pauses."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.on_signal)
        first_pause, longest_pause, healthy_seconds = self.spec["backoff"]
        pause, restarts = first_pause, 0
        while True:
            # Wall-clock times are only shown: a clock that is set must not change what is restarted.
            started, began = time.time(), time.monotonic()
            code = self.run_once()
            now, lived = time.time(), time.monotonic() - began
            history = [*self.record["history"], [started, now, code]][-MAX_HISTORY:]
            self.save(child=0, code=code, history=history, since=now)
            final = self.final_state(code, lived < healthy_seconds)
            if final:
                return self.finish(*final)
            if lived > healthy_seconds:
                pause, restarts = first_pause, 0
            if restarts >= self.spec["max_restarts"]:
                return self.finish("failed", f"ended with code {code}, {restarts + 1} times in a row; giving up")
            restarts += 1
            limit = self.spec["max_restarts"]
            self.log_line(f"ended with code {code}; restarting it in {pause:.0f} s (restart {restarts} of {limit})")
            self.save(
                state="waiting",
                next=now + pause,
                reason=f"ended with code {code}",
                restarts=self.record["restarts"] + 1,
            )
            state = self.wait(pause)
            if state:
                return self.finish(state, f"ended with code {code}, then {state}")
            pause = min(2 * pause, longest_pause)

    def final_state(self, code: int, ended_early: bool) -> tuple[str, str] | None:
        """State and reason if the worker must not be restarted."""
        if self.no_longer_required:
            return "done", "no worker on this host requires it any more"
        if self.window_closed:
            return "gone", "its tmux window was closed, or tmux was killed"
        if self.stop_requested_at is not None:
            return "stopped", f"stopped on request, with code {code}"
        if code == 0:
            return "done", "finished with code 0"
        if code == EXIT_USAGE and ended_early:
            return "failed", "ended with code 2: wrong flags or files; a restart does not help"
        return None

    def finish(self, state: str, reason: str) -> int:
        """Records the final state. Returns this program's exit code."""
        self.log_line(reason)
        self.save(state=state, reason=reason, since=time.time())
        return 0

    def wait(self, seconds: float) -> str:
        """Waits before a restart. Returns the final state if there must be none."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.stop_requested_at is not None:
                return "gone" if self.window_closed else "stopped"
            if not self.is_required():
                return "done"
            time.sleep(0.1)
        return ""

    # -- one run of the worker

    def run_once(self) -> int:
        """Runs the worker. Returns its exit code, which is negative after a signal."""
        self.kill_requested = False
        self.kill_leftovers()
        if self.spec["heartbeat_folder"]:
            shutil.rmtree(self.spec["heartbeat_folder"], ignore_errors=True)  # heartbeats of an earlier run
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        environment.update(self.spec["env"])
        try:
            child = subprocess.Popen(
                self.spec["argv"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # when the window closes, only the supervisor gets SIGHUP
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            self.log_line(f"cannot start {self.spec['argv'][0]}: {error.strerror}")
            return 127
        self.log_line(f"started: {shlex.join(self.spec['argv'])}")
        self.save(state="running", child=child.pid, since=time.time(), reason="")
        return self.supervise(child)

    def supervise(self, child: subprocess.Popen[bytes]) -> int:
        """Copies the worker's output and carries out stop requests until it has ended."""
        assert child.stdout is not None
        output, is_open, signalled = child.stdout.fileno(), True, False
        checked = time.monotonic()
        while True:
            if is_open and select.select([output], [], [], 0.2)[0]:
                data = os.read(output, 65536)
                is_open = bool(data)
                self.write(data)
            elif not is_open:
                time.sleep(0.05)
            ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended and (not is_open or not select.select([output], [], [], 0)[0]):
                # Kill what the worker left behind; until it is reaped, no other process can get its id.
                with contextlib.suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                child.stdout.close()
                return child.returncode
            if time.monotonic() - checked > CHECK_SECONDS:
                checked = time.monotonic()
                self.check_worker()
            if self.stop_requested_at is not None and not signalled:
                signalled = True
                # mpirun forwards the signal, so it must not reach mpirun's ssh; a worker below a wrapper must get it.
                with contextlib.suppress(OSError):
                    (os.killpg if self.spec["signal_group"] else os.kill)(child.pid, self.spec["stop_signal"])
            if self.kill_requested or self.stop_timed_out():
                with contextlib.suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)

    def check_worker(self) -> None:
        """Requests a stop if nothing requires the worker any more, and a kill if it hangs."""
        if self.spec["required_by"] and self.stop_requested_at is None and not self.is_required():
            self.no_longer_required, self.stop_requested_at = True, time.monotonic()
        hung = "" if self.kill_requested else self.find_hung()
        if hung:
            self.log_line(hung)
            self.kill_requested = True

    def is_required(self) -> bool:
        """Whether a worker on this host requires this one. Always true for workers other than tunnels."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            self.spec["required_by"] = read_spec(self.spec_path)["required_by"]  # `scale` adds actors
        for name in self.spec["required_by"]:
            try:
                if json.loads(self.path.with_name(f"{name}.json").read_text())["state"] in ALIVE_STATES:
                    return True
            except (OSError, ValueError, KeyError):
                return True
        return not self.spec["required_by"]

    def find_hung(self) -> str:
        """Which of the worker's processes hangs, by their heartbeats; empty if none does."""
        for path in Path(self.spec["heartbeat_folder"]).glob("*.json") if self.spec["heartbeat_folder"] else ():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = json.loads(path.read_text())
                silent = time.monotonic() - record["beat"]
                stopped = is_stopped(record["pid"], record["birth"])  # so it waits for nobody
                if silent > self.spec["worker_hang_seconds"] + (0 if stopped else record["may_be_silent"]):
                    state = ", is stopped" if stopped else ""
                    return f"{path.stem} hangs, was last heard of {silent:.0f} s ago{state}; killing it"
        return ""

    def kill_leftovers(self) -> None:
        """Kills what an earlier run left in a container, which outlives the command that started it."""
        if not self.spec["image"]:
            return
        marks = {f"{name}={self.spec['env'][name]}".encode() for name in ("MLMA_RUN", "MLMA_WORKER")}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(folder.name) != os.getpid() and marks <= set((folder / "environ").read_bytes().split(b"\0")):
                    os.kill(int(folder.name), signal.SIGKILL)

    # -- signals, state and log

    def on_signal(self, number: int, _: Any) -> None:
        """Requests a stop; a second SIGTERM or SIGINT kills the worker."""
        if number == signal.SIGHUP:
            self.window_closed = True
        elif self.stop_requested_at is not None:
            self.kill_requested = True
        self.stop_requested_at = self.stop_requested_at or time.monotonic()

    def stop_timed_out(self) -> bool:
        """Whether the worker has ignored a stop request for too long."""
        requested_at = self.stop_requested_at
        return requested_at is not None and time.monotonic() - requested_at > self.spec["stop_timeout"]

    def save(self, **changes: Any) -> None:
        """Updates NAME.json atomically."""
        self.record.update(changes)
        temporary = self.path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):  # a full disk must not end a running worker
            temporary.write_text(json.dumps(self.record))
            os.replace(temporary, self.path)

    def write(self, data: bytes) -> None:
        """Writes to the log and to the window. Either may be gone or full."""
        with contextlib.suppress(OSError):
            if self.log is None:
                self.log = open(self.spec["log"], "ab", buffering=0)  # noqa: SIM115
            if self.log.tell() > MAX_LOG_BYTES:
                self.log.close()
                self.log = None
                os.replace(self.spec["log"], self.spec["log"] + ".1")
                return self.write(data)
            self.log.write(data)
        with contextlib.suppress(OSError):
            os.write(1, data)

    def log_line(self, text: str) -> None:
        """Writes a line of the supervisor's own."""
        self.write(f"{time.strftime('%H:%M:%S')} {self.spec['name']}: {text}\n".encode())


if __name__ == "__main__":
    sys.exit(Supervisor(Path(sys.argv[1])).main())
