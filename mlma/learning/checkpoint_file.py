"""The file of a checkpoint: an uncompressed .npz with an array for each variable and a description in JSON.

The description contains a digest of everything else, so a file loads with what was saved, or not at all. Reading
allocates no more memory than the file has bytes, and never unpickles. Not here: which checkpoints a run keeps
(mlma/learning/checkpoint.py).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

META_NAME, DIGEST_NAME = "__meta__", "digest"
MAX_COUNT = 2**62  # of steps or frames


class CheckpointMismatchError(ValueError):
    """The file belongs to another network or level, or is not a checkpoint."""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value)


# Entry of the description -> whether a value can be one. Entries that are missing are noticed by those who need them.
META_CHECKS: dict[str, Callable[[Any], bool]] = {
    "step": _is_count,
    "frames": _is_count,
    "seconds": lambda value: _is_number(value) and 0 <= value < math.inf,
    "best": _is_number,
    "seeds": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)),
}


def write_checkpoint(file: BinaryIO, variables: dict[str, Any], meta: dict[str, Any]) -> None:
    """Writes variables and description, with a digest of both."""
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in variables.items()}
    described = meta | {DIGEST_NAME: _digest(arrays, meta)}
    arrays[META_NAME] = np.frombuffer(json.dumps(described).encode(), np.uint8)
    np.savez(file, **arrays)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables by name, description). CheckpointMismatchError if the file is not a checkpoint or is damaged."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            size = path.stat().st_size
            variables = {_variable_name(member): _read_array(archive, member, size) for member in archive.infolist()}
            if len(variables) < len(archive.infolist()):
                raise ValueError("two variables have the same name")
        meta = json.loads(variables.pop(META_NAME).tobytes())
        _check_meta(meta)
        digest = meta.pop(DIGEST_NAME, None)  # absent in checkpoints of version 0.1
        if digest is not None and digest != _digest(variables, meta):
            raise ValueError("the digest differs")
    except Exception as error:  # damage raises anything: zlib.error, struct.error, RecursionError, MemoryError, ...
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise CheckpointMismatchError(f"{path}: not a checkpoint: {reason.splitlines()[0]}") from None
    # Checkpoints of version 0.1 call the target network's variables slow/...
    return {re.sub("^slow/", "target/", name): value for name, value in variables.items()}, meta


def _variable_name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file_size: int) -> Any:
    """The array of a member. ValueError if it claims more bytes than the file has."""
    if member.compress_type != zipfile.ZIP_STORED or not member.file_size == member.compress_size <= file_size:
        raise ValueError(f"{member.filename} is compressed, or larger than the file")
    data = archive.read(member)  # compares the checksum
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"{member.filename} has version {version}")
    if dtype.hasobject or any(length < 0 for length in shape):
        raise ValueError(f"{member.filename} has the type {dtype} and the shape {shape}")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"{member.filename} does not have the size of its shape")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _check_meta(meta: Any) -> None:
    if not isinstance(meta, dict):
        raise ValueError("its description is not an object")
    for name, is_possible in META_CHECKS.items():
        if name in meta and not is_possible(meta[name]):
            raise ValueError(f"{name} cannot be {str(meta[name])[:40]}")


def _digest(variables: dict[str, Any], meta: dict[str, Any]) -> str:
    """Of names, types, shapes, bytes, and the rest of the description."""
    digest = hashlib.blake2b(json.dumps(meta, sort_keys=True).encode(), digest_size=16)
    for name in sorted(variables):
        value = variables[name]
        digest.update(json.dumps([name, value.dtype.str, value.shape]).encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
