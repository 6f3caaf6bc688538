"""Runs on a host, in a tmux window of its own: starts one worker, keeps its log, starts it again when it crashes.

    python supervisor.py .mlma/SESSION/HOST/workers/NAME.spec

The frontend copies this file to the host, so it needs nothing but Python's own library. What it knows is in NAME.json at any
time. A worker that ends with code 0 is done; one that hangs (mlma/monitoring/health_check.py) is killed, and has crashed. SIGTERM, SIGINT, or
the end of the window (SIGHUP) ask the worker to end, and kill it after `grace` seconds. Not here: who starts and stops this
program (mlma/cluster/on_host/host_agent.py).
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
MAX_HISTORY = 20  # ends of the worker that are remembered
MAX_LOG_BYTES = 64 * 2**20  # a log that is longer makes place for a new one; one old one is kept
EXIT_USAGE = 2  # exit code of wrong flags: starting again does not help
SECRETS = ("MLMA_TOKEN", "MLMA_SSH_PASSWORD", "MLMA_PARENT")


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_start_time(pid: int) -> str:
    """When this process was born, in the kernel's ticks: with it, a process id is never mistaken for a later one's."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Supervisor:
    def __init__(self, spec_path: Path) -> None:
        self.spec: dict[str, Any] = json.loads(spec_path.read_text())
        self.spec_path, self.path = spec_path, spec_path.with_suffix(".json")
        self.stop_asked: float | None = None
        self.kill = self.window_closed = self.unneeded = False
        self.child: subprocess.Popen[bytes] | None = None
        self.log: Any = None
        self.record: dict[str, Any] = {
            "name": self.spec["name"], "state": "starting", "pid": os.getpid(), "birth": process_start_time(os.getpid()), "boot": boot_id(),
            "child": 0, "since": time.time(), "restarts": 0, "code": None, "next": 0.0, "why": "", "history": [],
        }  # fmt: skip

    def save(self, **changes: Any) -> None:
        self.record |= changes
        beside = self.path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):  # a full disk must not end a worker that runs
            beside.write_text(json.dumps(self.record))
            os.replace(beside, self.path)

    def asked(self, number: int, _: Any) -> None:
        if number == signal.SIGHUP:
            self.window_closed = True
        elif self.stop_asked is not None:
            self.kill = True
        self.stop_asked = self.stop_asked or time.monotonic()

    def write(self, data: bytes) -> None:
        """To the log and to the window, each of which may be gone or full."""
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

    def say(self, line: str) -> None:
        self.write(f"{time.strftime('%H:%M:%S')} {self.spec['name']}: {line}\n".encode())

    def main(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.asked)
        pause, longest, healthy = self.spec["pause"]
        first, restarts = pause, 0
        while True:
            begun = time.time()
            code = self.once()
            history = [*self.record["history"], [begun, time.time(), code]][-MAX_HISTORY:]
            self.save(child=0, code=code, history=history, since=time.time())
            if self.unneeded:
                return self.end("done", "no worker of this host needs it any more")
            if self.window_closed:
                return self.end("gone", "its tmux window was closed, or tmux was killed")
            if self.stop_asked is not None:
                return self.end("stopped", f"ended with code {code} when asked to")
            if code == 0:
                return self.end("done", "ended by itself with code 0")
            if code == EXIT_USAGE and time.time() - begun < healthy:
                return self.end(
                    "failed", "ended with code 2, a mistake in its flags or files: starting it again does not help"
                )
            if time.time() - begun > healthy:
                pause, restarts = first, 0
            if restarts >= self.spec["restarts"]:
                return self.end(
                    "failed", f"ended with code {code}, the last of {restarts + 1} times in a row; given up"
                )
            restarts += 1
            self.say(
                f"ended with code {code}; starting it again in {pause:.0f} s ({restarts} of {self.spec['restarts']})"
            )
            self.save(
                state="waiting",
                next=time.time() + pause,
                why=f"ended with code {code}",
                restarts=self.record["restarts"] + 1,
            )
            if ended := self.wait(pause):
                return self.end(ended, f"ended with code {code}, then {ended}")
            pause = min(2 * pause, longest)

    def wait(self, seconds: float) -> str:
        """The state in which to end, if there is a reason not to go on."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.stop_asked is not None:
                return "gone" if self.window_closed else "stopped"
            if not self.needed():
                return "done"
            time.sleep(0.1)
        return ""

    def needed(self) -> bool:
        """A tunnel ends when no worker on this host needs it any more."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            self.spec["serves"] = json.loads(self.spec_path.read_text())["serves"]  # grows with `scale`
        for name in self.spec["serves"]:
            try:
                if json.loads(self.path.with_name(f"{name}.json").read_text())["state"] in (
                    "starting",
                    "running",
                    "waiting",
                ):
                    return True
            except (OSError, ValueError, KeyError):
                return True
        return not self.spec["serves"]

    def end(self, state: str, why: str) -> int:
        self.say(why)
        self.save(state=state, why=why, since=time.time())
        return 0

    def hangs(self) -> str:
        """Which of its processes has fallen silent, as they note themselves (mlma/monitoring/health_check.py)."""
        for path in Path(self.spec["health"]).glob("*.json") if self.spec["health"] else ():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = json.loads(path.read_text())
                silent = time.monotonic() - record["beat"]
                if silent > self.spec["worker_hang_seconds"] + record["may_be_silent"]:
                    return f"{path.stem} hangs, was last heard of {silent:.0f} s ago; killing it"
        return ""

    def clear(self) -> None:
        """Ends what an earlier life has left in a container, which outlives the command that started it."""
        if not self.spec["image"]:
            return
        marks = {f"{name}={self.spec['env'][name]}".encode() for name in ("MLMA_RUN", "MLMA_WORKER")}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(folder.name) != os.getpid() and marks <= set((folder / "environ").read_bytes().split(b"\0")):
                    os.kill(int(folder.name), signal.SIGKILL)

    def once(self) -> int:
        """One life of the worker: its exit code; that of a signal is negative."""
        self.kill = False
        environment = {k: v for k, v in os.environ.items() if k not in SECRETS} | self.spec["env"]
        self.clear()
        if self.spec["health"]:
            shutil.rmtree(self.spec["health"], ignore_errors=True)  # what an earlier life has noted
        try:
            self.child = subprocess.Popen(
                self.spec["words"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # the window's end reaches this process alone
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            self.say(f"cannot start {self.spec['words'][0]}: {error.strerror}")
            return 127
        self.say(f"starts: {shlex.join(self.spec['words'])}")
        self.save(state="running", child=self.child.pid, since=time.time(), why="")
        assert self.child.stdout is not None
        out, open_, signalled = self.child.stdout.fileno(), True, False
        checked = time.monotonic()
        while True:
            if open_ and select.select([out], [], [], 0.2)[0]:
                data = os.read(out, 65536)
                open_ = bool(data)
                self.write(data)
            elif not open_:
                time.sleep(0.05)
            ended = os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended and (not open_ or not select.select([out], [], [], 0)[0]):
                with contextlib.suppress(
                    OSError
                ):  # what it left; as long as it is not waited for, its number is its own
                    os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait()
                self.child.stdout.close()
                return self.child.returncode
            if time.monotonic() - checked > 2:
                checked = time.monotonic()
                if self.spec["serves"] and self.stop_asked is None and not self.needed():
                    self.unneeded, self.stop_asked = True, time.monotonic()
                if not self.kill and (hangs := self.hangs()):
                    self.say(hangs)
                    self.kill = True
            if self.stop_asked is not None and not signalled:
                signalled = True
                with contextlib.suppress(OSError):  # mpirun's ssh must not hear it; the python below a wrapper must
                    (os.killpg if self.spec["group"] else os.kill)(self.child.pid, self.spec["signal"])
            late = self.stop_asked is not None and time.monotonic() - self.stop_asked > self.spec["grace"]
            if self.kill or late:
                with contextlib.suppress(OSError):
                    os.killpg(self.child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(Supervisor(Path(sys.argv[1])).main())
