"""Stands in for experiment.py where a test is about the frontend: costs nothing, behaves like a learner or an actor.

A learner listens at its address and says what it hears; asked to end, it "saves" in logdir and ends with code 0, and its actors
with it. An actor says who it is to its learner once a second. Written as the `python` of a CSV by `cheap_python`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any


def cheap_python(folder: Path) -> str:
    """An executable that is Python, but for experiment.py."""
    path = folder / "cheap-python"
    real, here = sys.executable, Path(__file__).resolve()
    path.write_text(
        f'#!/bin/sh\ncase "$1" in *experiment.py) shift; exec {real} -S {here} "$@";; *) exec {real} "$@";; esac\n'
    )
    path.chmod(0o755)
    return str(path)


def address(text: str) -> tuple[int, Any]:
    if text.startswith("unix:"):
        return socket.AF_UNIX, text.removeprefix("unix:")
    host, _, port = text.rpartition(":")
    return socket.AF_INET, (host, int(port))


def learn(flags: dict[str, str]) -> None:
    def end(*_: Any) -> None:
        Path(flags["logdir"], f"saved-{flags.get('task')}").write_text("saved")
        print("saved; the end", flush=True)
        os._exit(0)

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, end)
    family, where = address(flags["learner_host"])
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(where)
        server.listen(100)
        print(f"learner {flags.get('task')}: listening", flush=True)
        while True:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(2)
                print(f"learner {flags.get('task')}: heard {connection.recv(100).decode()}", flush=True)
                connection.sendall(b"ok")


def act(flags: dict[str, str]) -> None:
    print(f"argv {sys.argv[1:]}", flush=True)
    if os.environ.get("CHEAP_CRASH"):
        sys.exit(3)
    while True:
        family, where = address(flags["learner_host"])
        try:
            with socket.socket(family) as client:
                client.settimeout(5)
                client.connect(where)
                client.sendall(f"actor {flags['task']} of {os.uname().nodename}".encode())
                print("reached the learner" if client.recv(10) == b"ok" else "lost the learner", flush=True)
        except OSError as error:
            print(f"no learner: {error}", flush=True)
        time.sleep(1)


if __name__ == "__main__":
    given = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
    act(given) if given.get("job_name") == "actor" else learn({"task": "0"} | given)
