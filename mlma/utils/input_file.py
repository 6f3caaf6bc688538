"""Reads a file that a user named, and only a file: opening a pipe would wait forever, reading a device never ends."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 16 * 2**20  # of a configuration or a state of a run, which have kilobytes


def read_input_file(path: str | Path, max_bytes: int) -> bytes:
    """The content of a regular file. OSError if it cannot be read; ValueError that says what is allowed if it is
    something else, or larger than `max_bytes`."""
    # Without O_NONBLOCK, opening a pipe that nobody writes to does not return.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("must be a regular file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"must have at most {max_bytes:,} bytes")
    return data


def is_file(path: str) -> bool:
    """Whether `path`, in which ~ is a home directory, is a regular file; False for a path that cannot be one."""
    try:
        return Path(path).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def read_json_file(path: str | Path) -> Any:
    """The value in a JSON file. OSError and ValueError as in `read_input_file`."""
    data = read_input_file(path, MAX_JSON_BYTES)
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError:
        raise ValueError("not JSON: must be UTF-8 text") from None
    except RecursionError:
        raise ValueError("not JSON that this program writes: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
