"""Files of a member on the host of its first learner: sends them there, and removes them. Over the open connection."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlma.cluster.commands.fetch import NOT_FETCHED
from mlma.cluster.context import Context
from mlma.cluster.planning.hosts import Host
from mlma.cluster.remote.host_pool import call_on_host
from mlma.cluster.remote.ssh import Connection
from mlma.cluster.remote.ssh_login import HostError
from mlma.studies.run_files import CHECKPOINT, newest_checkpoint

DELETE = 'cd && cd -- "$1/checkpoints" && rm -f checkpoint-*.npz'


class NotReachedError(Exception):
    """The host does not answer; in one line."""


def send_newer(context: Context, logdir: str, run: Path, only_ask: bool = False) -> bool:
    """Sends the files of a run to the first learner's host if its newest checkpoint there is older, or incomplete.

    Whether that was needed; with `only_ask`, nothing is sent. NotReachedError if the host does not answer.
    """
    head, newest = context.plan.head, newest_checkpoint(run)

    def work(host: Host, connection: Connection) -> bool:
        request = {"action": "list files", "folder": logdir, "except": NOT_FETCHED}
        answer = call_on_host(host, connection, request, context.hosts.command_seconds, "folder_files")
        if newest is None or not _is_older(answer.get("files", {}), newest):
            return False
        if not only_ask:
            connection.put(logdir, _files_of(run, newest), context.hosts.command_seconds)
        return True

    answer = context.hosts.for_each([head.key], work)[head.key]
    if isinstance(answer, HostError):
        raise NotReachedError(f"{head.key}: {answer}")
    return answer


def delete_checkpoints(context: Context, logdir: str) -> None:
    """Removes the checkpoints of a run that a copy has replaced; best.npz stays."""
    head = context.plan.head
    if not head.local:  # otherwise they are the files here
        argv = ["sh", "-c", DELETE, "sh", logdir]
        context.hosts.for_each([head.key], lambda _, it: it.run(argv, "", context.hosts.command_seconds))


def prune_here(run: Path, keep: int) -> None:
    """Removes all but the last checkpoints here, as the learner does there, and what was being written there."""
    paths = sorted(path for path in (run / "checkpoints").glob("checkpoint-*.npz") if CHECKPOINT.fullmatch(path.name))
    for path in (*paths[:-keep], *(run / "checkpoints").glob(".checkpoint-*")):
        path.unlink(missing_ok=True)


def _is_older(files: dict[str, Any], newest: Path) -> bool:
    """Whether the host's checkpoints are older than this one, or this one is not whole there."""
    name = f"checkpoints/{newest.name}"
    there = [each for each in files if each.startswith("checkpoints/") and CHECKPOINT.fullmatch(Path(each).name)]
    if name in files:
        return bool(files[name][0] != newest.stat().st_size)
    return not there or max(there) < name


def _files_of(run: Path, newest: Path) -> dict[str, Path]:
    """What the host needs to go on: the newest checkpoint, the best one, and what is appended to."""
    files = {}
    for folder, folders, names in os.walk(run):
        if folder == str(run):
            folders[:] = [name for name in folders if name not in NOT_FETCHED]
        for name in names:
            path = Path(folder, name)
            is_old = CHECKPOINT.fullmatch(name) and path != newest
            if not name.startswith(".") and path.is_file() and not path.is_symlink() and not is_old:
                files[str(path.relative_to(run))] = path
    return dict(sorted(files.items(), key=lambda item: item[1] == newest))  # last, so that it has all others
