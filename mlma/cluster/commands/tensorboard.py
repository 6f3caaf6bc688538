"""tensorboard: runs TensorBoard on the first learner's host, and shows it at a port of this machine.

It listens at the loopback address of that host only, and ends with this command. Not here: what learners write for it
(mlma/monitoring/loggers/tensorboard.py).
"""

from __future__ import annotations

import re
import threading
from typing import IO

from mlma.cluster.context import Context, display_name
from mlma.cluster.planning.hosts import Host
from mlma.cluster.remote.forwarded_port import ForwardedPort
from mlma.cluster.remote.ssh import Connection
from mlma.cluster.remote.ssh_login import HostError

# Ends with its standard input, which is that of the connection. Only the program itself keeps the output open.
UNTIL_INPUT_ENDS = '"$@" 2>&1 & exec >/dev/null 2>&1; cat; kill "$!"'
ADDRESS = re.compile(rb"http://127\.0\.0\.1:(\d+)/")


def tensorboard(context: Context) -> int:
    """Until Ctrl-C. Exit code 1 if the host could not be reached, or TensorBoard does not run there."""
    head, logdir = context.plan.head, context.logdir()
    if head.local:
        print(f"the first learner is on this machine; run: .venv/bin/tensorboard --logdir={logdir}")
        return 0
    if head.image:
        raise ValueError("tensorboard: the first learner runs in a container; use `fetch`, and TensorBoard here")
    program = [*head.python, "-m", "tensorboard.main", f"--logdir={logdir}", "--host=127.0.0.1", "--port=0"]

    def show(host: Host, connection: Connection) -> None:
        with connection.read(
            ["sh", "-c", UNTIL_INPUT_ENDS, "sh", *program], None, context.hosts.command_seconds
        ) as out:
            port = _port(out)
            with ForwardedPort(connection, port, context.hosts.command_seconds) as server:
                threading.Thread(target=server.serve_forever, daemon=True).start()
                context.hosts.shows_progress = False
                url = f"http://127.0.0.1:{server.server_address[1]}/"
                print(f"TensorBoard of {logdir} on {display_name(host)}: {url} (Ctrl-C ends it)", flush=True)
                _wait_for_end(out)
                server.shutdown()
        raise HostError("TensorBoard has ended, or the connection is lost")

    context.hosts.note(head.key, "starting TensorBoard")
    try:
        print(f"{head.key}: {context.hosts.for_each([head.key], show)[head.key]}")
    except KeyboardInterrupt:
        return 0
    return 1


def _port(output: IO[bytes]) -> int:
    """The port that TensorBoard names once it listens."""
    last_line = b"no output"
    for line in output:
        if found := ADDRESS.search(line):
            return int(found[1])
        last_line = line.strip() or last_line
    raise HostError(f"TensorBoard did not start: {last_line.decode(errors='replace')}")


def _wait_for_end(output: IO[bytes]) -> None:
    while True:
        try:
            if not output.readline():
                return
        except TimeoutError:  # it has nothing to say
            continue
