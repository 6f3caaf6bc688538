"""A stand-in for experiment.py in tests of the frontend: needs almost no CPU, behaves like a learner or an actor.

A learner listens at its address and prints what it receives, after CHEAP_START seconds if the environment has them. On
a stop signal it "saves" in logdir and ends with code 0. It ends by itself once LOGDIR/end exists: with "over" in it as
at the end of training, with any other text by raising an error with that text. An actor sends its name to its learner
once a second. `cheap_python` makes an executable for the column `python` of a CSV.
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
    """An executable that is Python, except that it runs this file in place of experiment.py."""
    path = folder / "cheap-python"
    python, stand_in = sys.executable, Path(__file__).resolve()
    cases = f'*experiment.py) shift; exec {python} -S {stand_in} "$@";; *) exec {python} "$@";;'
    path.write_text(f'#!/bin/sh\ncase "$1" in {cases} esac\n')
    path.chmod(0o755)
    return str(path)


def socket_address(text: str) -> tuple[int, Any]:
    """Socket family and address, from a --learner_host."""
    if text.startswith("unix:"):
        return socket.AF_UNIX, text.removeprefix("unix:")
    host, _, port = text.rpartition(":")
    return socket.AF_INET, (host, int(port))


def learn(flags: dict[str, str]) -> None:
    """Answers actors until a stop signal."""
    time.sleep(float(os.environ.get("CHEAP_START", "0")))

    def save_and_end(*_: Any) -> None:
        Path(flags["logdir"], f"saved-{flags.get('task')}").write_text("saved")
        print("saved; training is over", flush=True)
        os._exit(0)

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, save_and_end)
    family, address = socket_address(flags["learner_host"])
    with socket.socket(family) as server:
        if family == socket.AF_UNIX:
            Path(address).unlink(missing_ok=True)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(100)
        print(f"learner {flags.get('task')}: listening", flush=True)
        server.settimeout(0.2)
        while True:
            end_if_asked(flags)
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection, contextlib.suppress(OSError):
                connection.settimeout(2)
                print(f"learner {flags.get('task')}: received {connection.recv(100).decode()}", flush=True)
                connection.sendall(b"ok")


def end_if_asked(flags: dict[str, str]) -> None:
    """Ends as LOGDIR/end says."""
    try:
        text = Path(flags["logdir"], "end").read_text()
    except OSError:
        return
    if text != "over":
        raise RuntimeError(text)
    if flags["task"] == "0":
        Path(flags["heartbeat_folder"]).mkdir(parents=True, exist_ok=True)
        Path(flags["heartbeat_folder"], "learner-0.over").touch()
    os._exit(0)


def act(flags: dict[str, str]) -> None:
    """Calls the learner once a second; with CHEAP_CRASH in the environment it exits with code 3."""
    print(f"argv {sys.argv[1:]}", flush=True)
    if os.environ.get("CHEAP_CRASH"):
        sys.exit(3)
    while True:
        family, address = socket_address(flags["learner_host"])
        try:
            with socket.socket(family) as client:
                client.settimeout(5)
                client.connect(address)
                client.sendall(f"actor {flags['task']} of {os.uname().nodename}".encode())
                print("reached the learner" if client.recv(10) == b"ok" else "lost the learner", flush=True)
        except OSError as error:
            print(f"no learner: {error}", flush=True)
        time.sleep(1)


if __name__ == "__main__":
    flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
    act(flags) if flags.get("job_name") == "actor" else learn({"task": "0"} | flags)
