"""Runs a command until it ends, or until whoever started this lets go: `python -m mlma.api.keeper COMMAND ...`.

Standard input is the bond. When it is closed, by `TrainingRun.stop` or because that process has ended in any way, the
command gets SIGTERM, on which training saves and ends. The command ends with this process, too, so no run goes on
unseen. Imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from mlma.utils.child_process import die_with_parent


def main(command: list[str]) -> int:
    """The exit code of the command."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a run is stopped by closing standard input
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_prepare_child)
    threading.Thread(target=_stop_when_alone, args=[child], daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _prepare_child() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    die_with_parent()


def _stop_when_alone(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock Python wants at its end
        pass
    child.terminate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
