"""The files in a folder of a host, for `fetch`. Needs only Python 3.8 or later and its standard library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Name -> size and time of change in nanoseconds, of regular files outside the request's `except` folders."""
    os.chdir(str(Path.home()))
    top = request["folder"]
    if not os.path.isdir(top):
        return {"problem": f"{top} is no folder there"}
    files = {}
    for folder, folders, names in os.walk(top):
        if folder == top:
            folders[:] = [name for name in folders if name not in request["except"]]
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
            except OSError:  # a checkpoint that was just replaced
                continue
            if os.path.isfile(path) and not os.path.islink(path):
                files[os.path.relpath(path, top)] = [status.st_size, status.st_mtime_ns]
    return {"files": files}
