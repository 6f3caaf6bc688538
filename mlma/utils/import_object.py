"""Objects by name: "module:name" of this package, and modules of the user's by name or from a file such as ./my_env.py.

The working folder is on the import path, after everything else, so that no file in it hides an installed package.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from mlma.utils.user_text import printable


def import_object(name: str) -> Any:
    """Imports `module:name` and returns the object."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def is_file_name(text: str) -> bool:
    """Whether `text` names a file rather than a module."""
    return text.endswith(".py") or "/" in text


def import_user_module(text: str) -> ModuleType:
    """The module `text`, or that of the file `text`. ValueError in one line, without the flag, if it cannot be
    imported."""
    add_to_path(os.getcwd())
    try:
        return _import_file(Path(text)) if is_file_name(text) else importlib.import_module(text)
    except FileNotFoundError as error:
        if error.filename != str(Path(text).absolute()):
            raise ValueError(f"cannot import {text}: {in_one_line(error)}") from None
        raise ValueError(f"{text}: no such file in {os.getcwd()}") from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot import {text}: {in_one_line(error)}") from None


def add_to_path(folder: str) -> None:
    """Appends a folder to the import path, once."""
    if folder not in sys.path:
        sys.path.append(folder)


def _import_file(path: Path) -> ModuleType:
    """The module of a file, under the name of the file where no other module has that name; imported only once."""
    path = path.absolute()
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    add_to_path(str(path.parent))  # for the modules beside it, and for entry points that name this one
    name = path.stem if _is_free(path) else f"_mlma_{path.stem}_{zlib.crc32(str(path).encode()):x}"
    loaded: Any = sys.modules.get(name)
    if loaded is not None:
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_free(path: Path) -> bool:
    """Whether importing the stem of `path` by name gives this file, or nothing."""
    if not path.stem.isidentifier():
        return False
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None)
    else:
        spec = importlib.util.find_spec(path.stem)
        origin = spec.origin if spec else str(path)
    return origin is not None and Path(origin).resolve() == path.resolve()


def in_one_line(error: BaseException, not_in: str | None = None) -> str:
    """The type of an exception, where it was raised, and its text, in one line. The place is never in a file whose
    path contains `not_in`."""
    frames = traceback.extract_tb(error.__traceback__)
    if not_in is not None:
        frames = traceback.StackSummary(frame for frame in frames if not_in not in frame.filename)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames and not isinstance(error, ImportError) else ""
    if isinstance(error, SyntaxError):
        where = f" at {error.filename}:{error.lineno}"
        return f"{type(error).__name__}{where}: {error.msg}"
    text = " ".join(str(error).split())
    return printable(f"{type(error).__name__}{where}{': ' if text else ''}{text}", 600)
