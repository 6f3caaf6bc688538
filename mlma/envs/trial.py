"""A trial of the levels of a run before training: each is opened, reset and stepped once, in a process of its own.

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
import time
from typing import Any

import numpy as np

from mlma.core.actions import action_spec
from mlma.core.config import EnvironmentConfig
from mlma.core.types import EnvSpec
from mlma.envs.failures import EnvironmentFailedError, WrongResultError
from mlma.envs.registry import SUITE_MODULES, SUITES, level_names
from mlma.envs.vector.sequential import SyncVectorEnv
from mlma.utils.child_process import PARENT_PID_ENV, available_cores, setup_child_process
from mlma.utils.import_object import in_one_line
from mlma.utils.user_text import printable

STEPS = 3
SEED = 1
NOTE_SECONDS = 5.0  # after which a line says what is waited for
LAST_LINE_BYTES = 4096


def try_levels(settings: EnvironmentConfig) -> None:
    """ValueError, in one line, for the first level of the run that cannot be played on this machine."""
    names = level_names(settings.level_name)
    tasks = [(name, module) for name in names if (module := _suite_to_try(name))]
    if not tasks:
        return
    with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:
        answers = [pool.submit(_try, name, module, settings) for name, module in tasks]
        try:
            _wait_for_all(answers)
        finally:
            pool.shutdown(cancel_futures=True)


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
    """The module of the level's suite, if the level needs a trial."""
    for name, suite in SUITES.items():
        if hasattr(suite, "needs_trial") and suite.needs_trial(level_name):
            return SUITE_MODULES[name]
    return ""


def _try(level_name: str, suite: str, settings: EnvironmentConfig) -> str:
    """What is wrong with the level, in one line, or ""."""
    task = {"suite": suite, "level_name": level_name, "settings": dataclasses.asdict(settings)}
    environment = {PARENT_PID_ENV: str(os.getpid()), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(
        [sys.executable, "-m", "mlma.envs.trial"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )
    flag = f"--level_name={level_name}"
    try:
        answer, log = child.communicate(json.dumps(task).encode(), timeout=settings.env_timeout_seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        _, log = child.communicate()
        return f"{flag}: no answer for {settings.env_timeout_seconds:g} s (--env_timeout_seconds){_last_line(log)}"
    if child.returncode == 0 and answer:
        return str(json.loads(answer)["problem"])
    code = child.returncode
    reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
    return f"{flag}: its process ended with {reason} while it was tried before training{_last_line(log)}"


def _last_line(log: bytes) -> str:
    lines = log[-LAST_LINE_BYTES:].decode(errors="replace").strip().splitlines()
    return f"; its last line: {printable(lines[-1])}" if lines else ""


def _problem(task: dict[str, Any]) -> str:
    """In the child: what is wrong with the level, in one line, or ""."""
    level_name = task["level_name"]
    suite, settings = importlib.import_module(task["suite"]), EnvironmentConfig(**task["settings"])
    try:
        single = suite.make_single(level_name, settings, False)
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
