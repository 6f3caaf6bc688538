"""Supervisor of one worker, in a tmux window of its own: starts the worker, logs its output, restarts it after a crash.

    python supervisor.py .mlma/SESSION/HOST/workers/NAME.spec

The frontend copies this file to the host, with worker_end.py and worker_watch.py next to it. They need only Python 3.8
or later and its standard library. NAME.json always contains the worker's state. A worker that ends with code 0 is done,
but learners only if the first of them has left the file `end_mark`: mpirun ends with code 0 after it has lost a host,
too. A worker that hangs is killed, and so are learners that do not find each other; both count as a crash. SIGTERM,
SIGINT, or SIGHUP when the window closes, stop the worker; it is killed after `stop_timeout` seconds. Not here: starting
and stopping this program (mlma/cluster/on_host/host_agent.py).
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
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:  # imported by a test; on a host, this file is a program, and the others are next to it
    from mlma.cluster.on_host.worker_end import describe_code, error_line, worked_seconds
    from mlma.cluster.on_host.worker_watch import LearnerStart, find_hung, process_start_time
else:
    sys.dont_write_bytecode = True  # `down` removes only what the frontend has copied
    from worker_end import describe_code, error_line, worked_seconds
    from worker_watch import LearnerStart, find_hung, process_start_time

PR_SET_PDEATHSIG = 1
MAX_HISTORY = 20  # runs of the worker that NAME.json lists
MAX_LOG_BYTES = 64 * 2**20  # a longer log is renamed to *.log.1, and a new one started
MAX_OUTPUT_BYTES = 32768  # of this life's output, in which the reason for its end is looked for
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
        self.output, self.kill_reason = b"", ""  # of this life
        self.start = LearnerStart(self.spec)
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
            ended, error = self.describe_end(code)
            worked = worked_seconds(self.output.decode(errors="replace"), code, lived)
            final = self.final_state(code, worked < healthy_seconds, error)
            if final:
                return self.finish(*final)
            if worked > healthy_seconds and self.start.is_complete:
                pause, restarts = first_pause, 0
            if restarts >= self.spec["max_restarts"]:
                return self.finish("failed", f"{ended}, {restarts + 1} times in a row; giving up{error}")
            restarts += 1
            limit = self.spec["max_restarts"]
            self.log_line(f"{ended}; restarting it in {pause:.0f} s (restart {restarts} of {limit}){error}")
            self.save(state="waiting", next=now + pause, reason=f"{ended}{error}", restarts=self.record["restarts"] + 1)
            state = self.wait(pause)
            if state:
                return self.finish(state, f"{ended}, then {state}")
            pause = min(2 * pause, longest_pause)

    def describe_end(self, code: int) -> tuple[str, str]:
        """How this life ended, and ": " with its reason, if that is known."""
        ended = describe_code(code)
        if code == 0 and self.spec.get("end_mark"):
            ended += ", but training is not over"
        reason = self.kill_reason or error_line(self.output.decode(errors="replace"))
        return ended, f": {reason}" if reason else ""

    def is_done(self, code: int) -> bool:
        """Whether the worker's work is done. Of their end, learners themselves have the last word."""
        mark = self.spec.get("end_mark")  # missing in specs of earlier versions
        return os.path.exists(mark) if mark else code == 0

    def final_state(self, code: int, ended_early: bool, error: str = "") -> tuple[str, str] | None:
        """State and reason if the worker must not be restarted."""
        if self.no_longer_required:
            return "done", "no worker on this host requires it any more"
        if self.window_closed:
            return "gone", "its tmux window was closed, or tmux was killed"
        if self.stop_requested_at is not None:
            return "stopped", f"stopped on request, with code {code}"
        if self.is_done(code):
            return "done", f"finished with code {code}"
        if code == EXIT_USAGE and ended_early:
            return "failed", f"ended with code 2: wrong flags or files; a restart does not help{error}"
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
        self.kill_requested, self.output, self.kill_reason = False, b"", ""
        self.start = LearnerStart(self.spec)
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
            self.kill_reason = f"cannot start {self.spec['argv'][0]}: {error.strerror}"
            self.log_line(self.kill_reason)
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
                self.output = (self.output + data)[-MAX_OUTPUT_BYTES:]
                self.start.read(data)
            elif not is_open:
                time.sleep(0.05)
            ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended and (not is_open or not select.select([output], [], [], 0)[0]):
                # Kill what the worker left behind; until it is reaped, no other process can get its id.
                with contextlib.suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                child.stdout.close()
                if self.spec.get("learner_addresses"):  # of an mpirun that was killed
                    shutil.rmtree(Path(tempfile.gettempdir(), f"ompi.{child.pid}"), ignore_errors=True)
                return child.returncode
            if time.monotonic() - checked > CHECK_SECONDS:
                checked = time.monotonic()
                self.check_worker(child.pid)
            if self.stop_requested_at is not None and not signalled:
                signalled = True
                # mpirun forwards the signal, so it must not reach mpirun's ssh; a worker below a wrapper must get it.
                with contextlib.suppress(OSError):
                    (os.killpg if self.spec["signal_group"] else os.kill)(child.pid, self.spec["stop_signal"])
            if self.kill_requested or self.stop_timed_out():
                with contextlib.suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)

    def check_worker(self, pid: int) -> None:
        """Requests a stop if nothing requires the worker any more, and a kill if it hangs or does not start."""
        if self.spec["required_by"] and self.stop_requested_at is None and not self.is_required():
            self.no_longer_required, self.stop_requested_at = True, time.monotonic()
        if not self.kill_requested and (reason := self.find_hung() or self.start.find_missing(pid)):
            self.log_line(f"{reason}; killing it")
            self.kill_requested, self.kill_reason = True, reason

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
        """Which of the worker's processes hangs; empty if none does."""
        return find_hung(self.spec["heartbeat_folder"], self.spec["worker_hang_seconds"])

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
