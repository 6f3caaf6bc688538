"""Actors of local training: child processes that live and die with this one, and come back when they crash.

Each child asks the kernel to be ended when its parent dies (`die_with_parent`), so that no orphan is left even by kill -9.
Not here: remote workers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlma.core.config.config import Config, to_argv
from mlma.monitoring.metrics import Metrics
from mlma.monitoring.run_log import Say
from mlma.roles.stop_signal import StopSignal
from mlma.utils.child_process import PARENT_PID_ENV

RESTART_BACKOFF_SECONDS = (1.0, 60.0)  # seconds before a crashed actor is started again: first, longest
HEALTHY_SECONDS = 60.0  # seconds of life after which the next restart is quick again


class LocalActors:
    """Starts `count` actors and keeps that many alive until `stop`. One thread: the kernel ties a child to its thread."""

    def __init__(
        self,
        command: Callable[[int], list[str]],
        count: int,
        logs: Path,
        say: Callable[[str], None],
        restarted: Callable[[], None],
        stopping: Callable[[], bool],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._failed = failed
        self._command, self._count, self._logs = command, count, logs
        self._say, self._restarted, self._stopping = say, restarted, stopping
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._stop = threading.Event()
        logs.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name="local-actors", daemon=True)
        self._thread.start()

    def pids(self) -> list[int]:
        return [child.pid for child in self._children.values()]

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as error:  # a thread must not end in silence
            self._failed(error)
            raise

    def _watch(self) -> None:
        due = dict.fromkeys(range(self._count), 0.0)  # when to start which actor
        pause = dict.fromkeys(range(self._count), RESTART_BACKOFF_SECONDS[0])
        begun: dict[int, float] = {}
        while not self._stop.wait(0.2):
            now = time.monotonic()
            for task, child in list(self._children.items()):
                if (code := child.poll()) is None:
                    continue
                del self._children[task]
                if code == 0 or self._stopping():
                    continue  # the learner told it that training is over, or the same signal reached us both
                if now - begun[task] > HEALTHY_SECONDS:
                    pause[task] = RESTART_BACKOFF_SECONDS[0]
                due[task] = now + pause[task]
                self._restarted()
                self._say(
                    f"actor {task} ended with code {code}; starting it again in {pause[task]:.0f} s{self._last_line(task)}"
                )
                pause[task] = min(2 * pause[task], RESTART_BACKOFF_SECONDS[1])
            for task in [t for t, when in due.items() if when <= now]:
                del due[task]
                begun[task] = now
                self._children[task] = self._start(task)
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _log(self, task: int) -> Path:
        return self._logs / f"actor-{task}.log"

    def _start(self, task: int) -> subprocess.Popen[bytes]:
        with self._log(task).open("ab") as log:
            environment = os.environ | {PARENT_PID_ENV: str(os.getpid())}
            return subprocess.Popen(self._command(task), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def _last_line(self, task: int) -> str:
        lines = self._log(task).read_text(errors="replace").strip().splitlines()
        return f"; its last line: {lines[-1]}" if lines else ""

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def start_local_actors(config: Config, rank: int, metrics: Metrics, stop: StopSignal, say: Say) -> LocalActors:
    words = to_argv(replace(config, job_name="actor", task=0, health_folder=""))
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), *words]
    return LocalActors(
        lambda task: [*command, f"--task={task}"],
        config.num_actors,
        Path(config.logdir) / f"learner-{rank}" if rank else Path(config.logdir),
        say,
        restarted=lambda: metrics.count("actors_restarted"),
        stopping=lambda: stop.wanted,
        failed=stop.fail,
    )
