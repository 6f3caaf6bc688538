"""screens: one tmux session on this machine that shows the whole run, a window with `status` and one for each host.

A host's window is attached to the run's own session there, to be read only. Not here: the workers' sessions (onhost.py).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import libtmux

from mlma.cluster.context import Context, display_name, plural
from mlma.cluster.planning.launch_plan import Host

OWNER_OPTION = "@mlma_run"  # option of the session: which run it belongs to
THEN = "; echo; echo 'ended; Enter closes this window'; read -r _"


def dashboard(context: Context) -> int:
    if not context.state.up:
        raise ValueError(f"--logdir={context.call.config.run.logdir}: the run there is not up; `up` starts it")
    name = name_of(context)
    server = libtmux.Server()
    found = server.sessions.get(session_name=name, default=None)
    if found and not _ours(context, found):
        raise ValueError(
            f"there is a tmux session {name!r} that is not of this run; end it, or choose another --tmux_sess"
        )
    if not found:
        front = str(Path(sys.argv[0]).resolve())
        # The size of a window is its own, whatever was exported to the server.
        watch = [
            "env",
            "-u",
            "COLUMNS",
            "-u",
            "LINES",
            sys.executable,
            front,
            "status",
            "--watch",
            f"--logdir={Path(context.call.config.run.logdir).absolute()}",
        ]
        session = server.new_session(session_name=name, window_name="status", window_command=shlex.join(watch) + THEN)
        session.cmd("set-option", OWNER_OPTION, context.state.id)
        for host in context.plan.hosts.values():
            session.new_window(
                window_name=display_name(host), window_shell=shlex.join(attach(context, host)) + THEN, attach=False
            )
    print(
        f"{plural(1 + len(context.plan.hosts), 'window')}, one for each host and one with `status`: tmux attach -t {name}"
    )
    return 0


def close(context: Context) -> None:
    """Part of `down`."""
    server = libtmux.Server()
    session = server.sessions.get(session_name=name_of(context), default=None) if server.is_alive() else None
    if session and _ours(context, session):
        session.kill()


def attach(context: Context, host: Host) -> list[str]:
    """The command that shows the run's session on a host."""
    look = ["env", "-u", "TMUX", "tmux", "attach", "-r", "-t", f"={context.plan.session}"]
    if host.local:
        return look
    known = str(Path(context.options.known_hosts).expanduser())
    words = ["ssh", "-t", "-p", str(host.port), "-o", f"UserKnownHostsFile={known}"]
    words += ["-i", str(Path(host.key_file).expanduser())] if host.key_file else []
    return [*words, f"{host.user}@{host.ip}", shlex.join(look)]


def name_of(context: Context) -> str:
    return f"{context.plan.session}-screens"


def _ours(context: Context, session: libtmux.Session) -> bool:
    return session.cmd("show-options", "-v", OWNER_OPTION).stdout == [context.state.id]
