"""`train`: training in child processes, with a handle on it. This process imports no TensorFlow for it.

The run is the same as that of experiment.py with the same flags. It is stopped, and saves, when this process ends. Not
here: how the children are tied to this process (mlma/api/keeper.py), what is shown (mlma/api/progress.py).
"""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlma.api.progress import Progress
from mlma.core.config import Config, flag_table, parse, to_argv, with_logdir
from mlma.utils.child_process import EXIT_USAGE
from mlma.utils.code_layout import ROOT

if TYPE_CHECKING:
    from mlma.api.policy import Policy
    from mlma.api.run_data import Table

SCRIPT = ROOT / "experiment.py"
KEPT_LINES = 1000  # of the output
SHOWN_LINES = 20  # of it, in an error
COLOR_VARIABLES = ("FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE")
OF_OTHER_PROCESSES = ("mode", "job_name", "task")  # flags that would start something else


def train(
    *, level_name: str = "", logdir: str | os.PathLike[str] = "", progress: bool = True, **flags: Any
) -> TrainingRun:
    """Starts training, or resumes the run in `logdir`; returns at once.

    `flags` are those of experiment.py (`experiment.py --help`). ValueError in one line for a wrong flag; what depends
    on the level is found out by the run, and raised by `wait`.
    """
    named = {"level_name": level_name, "logdir": os.fspath(logdir)}
    return TrainingRun(_parse(flags | {name: value for name, value in named.items() if value}), progress)


def _parse(flags: dict[str, Any]) -> Config:
    if wrong := [name for name in OF_OTHER_PROCESSES if name in flags]:
        raise ValueError(f"{wrong[0]}: train() starts the learner and its actors; allowed: any other flag")
    table = flag_table()
    texts = {name: table[name].format(value) if name in table else value for name, value in flags.items()}
    return with_logdir(parse([f"--{name}={text}" for name, text in texts.items()]))


class TrainingRun:
    """A run in child processes. `wait` for its end, or `stop` it; `metrics` has what it has measured so far."""

    def __init__(self, config: Config, progress: bool) -> None:
        """Starts it. See `train`."""
        self.logdir = Path(config.run.logdir).absolute()
        self._lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._progress = Progress(progress)
        command = [sys.executable, str(SCRIPT), *to_argv(config)]
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "mlma.api.keeper", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # a notebook's interrupt, or Ctrl-C, is for this process alone
        )
        self._reader = threading.Thread(target=self._read, name="mlma-train", daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        """Where it writes, and whether it runs."""
        code = self._keeper.poll()
        state = "running" if code is None else "ended" if code == 0 else f"failed with code {code}"
        return f"<mlma.TrainingRun in {self.logdir}: {state}>"

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._keeper.poll() is None

    @property
    def output(self) -> list[str]:
        """The last lines that it has printed."""
        return list(self._lines)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end, at most `timeout` seconds; whether it has ended.

        ValueError if flags or files were wrong, RuntimeError if it failed, both with the last lines of the output. An
        interrupt ends the waiting, not the run.
        """
        try:
            code = self._keeper.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join()
        if code == EXIT_USAGE:
            raise ValueError("\n".join(self.output[-SHOWN_LINES:]))
        if code:
            last = "\n".join(self.output[-SHOWN_LINES:])
            raise RuntimeError(f"training ended with code {code}; the end of its output:\n{last}")
        return True

    def stop(self, timeout: float = 120.0) -> None:
        """Saves a checkpoint, and ends the run. TimeoutError if that takes longer; it goes on ending."""
        assert self._keeper.stdin
        self._keeper.stdin.close()
        if not self.wait(timeout):
            raise TimeoutError(f"the run in {self.logdir} has not ended within {timeout:g} s; wait() waits on")

    def metrics(self) -> Table:
        """What it has measured so far, as `mlma.read_run(logdir).metrics`."""
        from mlma.api.run_data import read_metrics

        return read_metrics(self.logdir)

    def policy(self, **options: Any) -> Policy:
        """The policy of its last checkpoint: `mlma.load_policy(logdir, ...)`."""
        from mlma.api.policy import load_policy

        return load_policy(self.logdir, **options)

    def _read(self) -> None:
        assert self._keeper.stdout
        for line in self._keeper.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            self._lines.append(text)
            self._progress.add(text)
        self._progress.close()


def _environment() -> dict[str, str]:
    """This process's, without what a notebook sets so that programs in its cells write colors into pipes."""
    environment = {name: value for name, value in os.environ.items() if name not in COLOR_VARIABLES}
    return environment | {"TERM": "dumb", "PYTHONPATH": _import_path()}


def _import_path() -> str:
    """This process's import path, without what each Python has: what can be imported here can be in the children."""
    own = [os.path.abspath(entry) for entry in sys.path if not entry or os.path.isdir(entry)]
    given = [entry for entry in own if not entry.startswith((sys.prefix, sys.base_prefix))]
    return os.pathsep.join(dict.fromkeys([*given, str(SCRIPT.parent)]))
