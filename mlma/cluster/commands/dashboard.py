"""screens: one local tmux session that shows the whole run, with a window for `status` and one for each host.

A host's window is attached, read-only, to the run's session on that host. Not here: the sessions of the workers
(mlma/cluster/on_host/host_agent.py).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path

import libtmux

from mlma.cluster.context import Context, display_name, plural
from mlma.cluster.planning.hosts import Host, attach_argv

KEEP_WINDOW_OPEN = "; echo; echo 'ended; Enter closes this window'; read -r _"


def dashboard(context: Context) -> int:
    """Opens the session unless it exists."""
    if not context.state.up:
        raise ValueError(f"--logdir={context.invocation.config.run.logdir}: the run there is not up; `up` starts it")
    server = _server(context)
    if not server.is_alive():
        command = shlex.join(watch_command(context)) + KEEP_WINDOW_OPEN
        name = f"{context.plan.name}-screens"
        session = server.new_session(session_name=name, window_name="status", window_command=command)
        for host in context.plan.hosts.values():
            command = shlex.join(attach_command(context, host)) + KEEP_WINDOW_OPEN
            session.new_window(window_name=display_name(host), window_shell=command, attach=False)
    num_windows = plural(1 + len(context.plan.hosts), "window")
    print(f"{num_windows}, one with `status` and one for each host; to see them: tmux -L {server.socket_name} attach")
    return 0


def close(context: Context) -> None:
    """Ends the session; part of `down`."""
    server = _server(context)
    if server.is_alive():
        server.kill()
    # tmux leaves the socket, and perhaps its folder, which is other servers' too.
    path = Path(os.environ.get("TMUX_TMPDIR", "/tmp"), f"tmux-{os.getuid()}", str(server.socket_name))
    with contextlib.suppress(OSError):
        path.unlink()
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def watch_command(context: Context) -> list[str]:
    """`status --watch`, at the size of its window even if the tmux server has COLUMNS and LINES in its environment."""
    frontend = str(Path(sys.argv[0]).resolve())
    logdir = Path(context.invocation.config.run.logdir).absolute()
    argv = ["env", "-u", "COLUMNS", "-u", "LINES", sys.executable, frontend]
    return [*argv, "status", "--watch", f"--logdir={logdir}"]


def attach_command(context: Context, host: Host) -> list[str]:
    """The command that shows the run's session on a host."""
    attach = ["env", "-u", "TMUX", *attach_argv(context.plan.session, host), "-r"]
    if host.local:
        return attach
    known_hosts = str(Path(context.options.known_hosts).expanduser())
    ssh = ["ssh", "-t", "-p", str(host.port), "-o", f"UserKnownHostsFile={known_hosts}"]
    ssh += ["-i", str(Path(host.key_file).expanduser())] if host.key_file else []
    return [*ssh, f"{host.user}@{host.alias or host.ip}", shlex.join(attach)]


def _server(context: Context) -> libtmux.Server:
    """A tmux server of the run's own on this machine, which reads no configuration."""
    return libtmux.Server(socket_name=f"mlma-{context.plan.session}", config_file=os.devnull)
