"""A trial of the levels of a run before training or evaluation: each is opened, reset and stepped, in its own process.

So an environment that cannot work ends the run in one line, whatever it does: raise, crash, hang, or return what does
not fit its spaces. Not here: what happens when one fails later (mlma/roles/local_actors.py).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlma.core.actions import action_spec
from mlma.core.config import EnvironmentConfig
from mlma.core.types import EnvSpec
from mlma.envs.failures import EnvironmentFailedError, WrongResultError
from mlma.envs.registry import SUITE_MODULES, SUITES, level_names
from mlma.envs.vector import temp_folder
from mlma.envs.vector.sequential import SyncVectorEnv
from mlma.envs.vector.worker_output import last_lines
from mlma.utils.child_process import PARENT_PID_ENV, available_cores, setup_child_process
from mlma.utils.import_object import in_one_line

STEPS = 3
SEED = 1
NOTE_SECONDS = 5.0  # after which a line says what is waited for


def try_levels(settings: EnvironmentConfig, evaluation: bool = False, without_workers: bool = False) -> None:
    """ValueError, in one line, for the first level of the run that cannot be played on this machine.

    Evaluation plays other levels than training in some suites. `without_workers`: only levels whose environments run in
    this process, which they could end; a worker that cannot start is noticed, and others need not be started for that.
    """
    names = level_names(settings.level_name)
    for suite in SUITES.values():
        for name in names if hasattr(suite, "check_settings") else ():
            suite.check_settings(name, settings)
    tasks = [(name, suite) for name in names if (suite := _suite_to_try(name))]
    if without_workers:
        tasks = [task for task in tasks if not settings.env_processes and not _has_workers(task[1])]
    if tasks:
        _Trials(settings, evaluation).run(tasks)


class _Trials:
    """Levels in child processes, some at a time. Whatever ends the trials ends these."""

    def __init__(self, settings: EnvironmentConfig, evaluation: bool) -> None:
        self._settings, self._evaluation = settings, evaluation
        self._children: list[subprocess.Popen[bytes]] = []
        self._lock, self._stopped = threading.Lock(), False

    def run(self, tasks: list[tuple[str, str]]) -> None:
        """Tries levels, with the names of their suites. ValueError for the first that fails."""
        folders = [temp_folder.acquire() if _wants_folder(suite) else None for _, suite in tasks]
        with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:
            try:
                answers = [pool.submit(self._try, *task, folder) for task, folder in zip(tasks, folders, strict=True)]
                _wait_for_all(answers)
            finally:
                self._stop()
                pool.shutdown(cancel_futures=True)
                for folder in filter(None, folders):
                    temp_folder.release(folder)

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.kill()

    def _start(self, folder: Path | None) -> subprocess.Popen[bytes] | None:
        environment = {PARENT_PID_ENV: str(os.getpid()), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if folder:
            environment["TMPDIR"] = str(folder)
        with self._lock:
            if self._stopped:
                return None
            child = subprocess.Popen(
                [sys.executable, "-u", "-m", "mlma.envs.trial"],  # what it prints before a crash is not lost
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | environment,
            )
            self._children.append(child)
            return child

    def _try(self, level_name: str, suite: str, folder: Path | None) -> str:
        """What is wrong with the level, in one line, or ""."""
        task = {"suite": SUITE_MODULES[suite], "level_name": level_name, "evaluation": self._evaluation}
        task["settings"] = dataclasses.asdict(self._settings)
        child = self._start(folder)
        if child is None:
            return ""
        flag, seconds = f"--level_name={level_name}", self._settings.env_timeout_seconds
        try:
            answer, log = child.communicate(json.dumps(task).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            _, log = child.communicate()
            return f"{flag}: no answer for {seconds:g} s (--env_timeout_seconds){last_lines(log)}"
        if child.returncode == 0 and answer:
            return str(json.loads(answer)["problem"])
        code = child.returncode
        reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
        work = "evaluation" if self._evaluation else "training"
        return f"{flag}: its process ended with {reason} while it was tried before {work}{last_lines(log)}"


def _wait_for_all(answers: list[concurrent.futures.Future[str]]) -> None:
    noted = time.monotonic()
    waiting = set(answers)
    while waiting:
        done, waiting = concurrent.futures.wait(waiting, timeout=NOTE_SECONDS, return_when="FIRST_COMPLETED")
        for answer in done:
            if problem := answer.result():
                raise ValueError(problem)
        if waiting and time.monotonic() - noted > NOTE_SECONDS:
            noted = time.monotonic()
            print(f"opening each level once: {len(answers) - len(waiting)} of {len(answers)} done", file=sys.stderr)


def _suite_to_try(level_name: str) -> str:
    """The level's suite, if the level needs a trial."""
    needed = (name for name, suite in SUITES.items() if hasattr(suite, "needs_trial") and suite.needs_trial(level_name))
    return next(needed, "")


def _has_workers(suite: str) -> bool:
    return getattr(SUITES[suite], "HAS_WORKERS", False)


def _wants_folder(suite: str) -> bool:
    return getattr(SUITES[suite], "OWN_TEMP_FOLDER", False)


def _problem(task: dict[str, Any]) -> str:
    """In the child: what is wrong with the level, in one line, or ""."""
    level_name = task["level_name"]
    suite, settings = importlib.import_module(task["suite"]), EnvironmentConfig(**task["settings"])
    try:
        single = suite.make_single(level_name, settings, task["evaluation"])
    except ValueError as error:  # a mistake of the user, which names the flag
        text = " ".join(str(error).split())
        return text if text.startswith("--") else f"--level_name={level_name}: cannot be opened: {text}"
    except Exception as error:
        return f"--level_name={level_name}: cannot be opened: {in_one_line(error)}"
    env = SyncVectorEnv([single], SEED, sticky=0.0)
    try:
        check_finite(env.reset(), "reset")
        rng = np.random.default_rng(SEED)
        for _ in range(STEPS):
            check_finite(env.step(_some_action(env.spec, rng)), "step")
        env.close()
    except EnvironmentFailedError as error:
        return f"--level_name={error.line}"
    except WrongResultError as error:
        return f"--level_name={level_name}: {error}"
    return ""


def _some_action(spec: EnvSpec, rng: np.random.Generator) -> Any:
    if spec.action_parts:
        return np.zeros([1, *action_spec(spec).shape], np.float32)
    return rng.integers(spec.num_actions, size=1)


def check_finite(timestep: Any, method: str) -> None:
    """WrongResultError for a number that training would refuse."""
    for name, array in {
        "an observation": timestep.observation,
        "a reward": timestep.reward,
        "an observation, its numbers,": timestep.extras.get("vector"),
    }.items():
        if array is not None and not np.isfinite(array).all():
            raise WrongResultError(f"{method} returned {name} that is not finite")


def main() -> None:
    """Reads the task from standard input, and writes the answer to what was standard output before the environment."""
    setup_child_process()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    answer = os.dup(1)
    os.dup2(2, 1)  # what the environment prints
    task = json.load(sys.stdin)
    os.write(answer, json.dumps({"problem": _problem(task)}).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
