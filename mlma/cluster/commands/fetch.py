"""fetch: copies checkpoints, metrics, reports and videos from the first learner's host to this machine.

Only files that changed since the last fetch are copied, in one stream; none is removed here. Not here: where learners
write (mlma/roles/).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path
from typing import IO, Any

from mlma.cluster.context import Context, display_name, plural
from mlma.cluster.output import reader_is_gone
from mlma.cluster.planning.hosts import Host
from mlma.cluster.remote.host_pool import call_on_host
from mlma.cluster.remote.ssh import Connection
from mlma.cluster.remote.ssh_login import HostError

NOT_FETCHED = ("cluster",)  # the frontend's own folder
TAR = 'cd && cd -- "$1" && exec tar -cf - -T -'


def fetch(context: Context) -> int:
    """Exit code 1 if the host could not be reached, or has no such logdir."""
    operands, head = context.invocation.operands, context.plan.head
    if len(operands) > 1:
        raise ValueError(f"fetch {' '.join(operands)}: must be fetch [FOLDER], a folder on this machine")
    folder = Path(operands[0] if operands else context.invocation.config.run.logdir).absolute()
    if head.local:
        print(f"the first learner is on this machine; its files are in {context.logdir()}")
        return 0
    while True:
        code = fetch_once(context, head, folder)
        if not context.options.follow or reader_is_gone(sys.stdout):
            return code
        try:
            time.sleep(context.options.every_seconds)
        except KeyboardInterrupt:
            return code


def fetch_once(context: Context, head: Host, folder: Path) -> int:
    """Copies what has changed since the last time; checkpoints last, so that metrics.csv here reaches up to them."""
    started, logdir = time.monotonic(), context.logdir()

    def copy(host: Host, connection: Connection) -> list[int]:
        request = {"action": "list files", "folder": logdir, "except": NOT_FETCHED}
        answer = call_on_host(host, connection, request, context.hosts.command_seconds, "folder_files")
        if answer.get("problem"):
            raise HostError(answer["problem"])
        files: dict[str, Any] = {name: value for name, value in answer["files"].items() if _is_plain(name)}
        changed = (name for name, value in files.items() if _state_of(folder / name) != value)
        wanted = {name: files[name] for name in sorted(changed, key=lambda name: name.startswith("checkpoints/"))}
        sizes: list[int] = []
        if not wanted:
            return sizes
        names = "".join(f"./{name}\n" for name in wanted)
        argv = ["sh", "-c", TAR, "sh", logdir]
        with (
            connection.read(argv, names, context.hosts.command_seconds) as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            for member in archive:
                name = os.path.normpath(member.name)
                source = archive.extractfile(member) if name in wanted and member.isfile() else None
                if source:
                    _write(folder / name, source, wanted[name][1])
                    sizes.append(member.size)
                    context.hosts.note(host.key, f"{len(sizes)} of {plural(len(wanted), 'file')}")
        return sizes

    answer = context.hosts.for_each([head.key], copy)[head.key]
    if isinstance(answer, HostError):
        print(f"{head.key}: {answer}")
        return 1
    amount = f"{plural(len(answer), 'file')}, {sum(answer) / 1e6:.1f} MB"
    print(f"{amount} from {display_name(head)} to {folder}; {time.monotonic() - started:.1f} s", flush=True)
    return 0


def _is_plain(name: str) -> bool:
    """Whether tar and this machine's files understand the name as it is."""
    return name.isprintable() and "\\" not in name and ".." not in Path(name).parts and not Path(name).is_absolute()


def _state_of(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _write(path: Path, source: IO[bytes], changed: int) -> None:
    """Writes next to the file and then replaces it, so that whoever reads it sees a whole one."""
    temporary = path.with_name(f".{path.name}.fetched")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            shutil.copyfileobj(source, file)
        os.utime(temporary, ns=(changed, changed))
        os.replace(temporary, path)
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise
        raise HostError(f"cannot write {path} here: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
