"""What a module defines at its top level, read from its source: no line of it is run.

A network's module imports TensorFlow, which takes seconds; flags are checked before. Not here: importing the module
(mlma/utils/import_object.py).
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mlma.utils.import_object import add_to_path, in_one_line, is_file_name

COMPUTED = object()  # the value of an attribute that is not written as a plain value
Assignments = dict[str, Any]  # name -> plain value, or COMPUTED


class Definition(NamedTuple):
    """A class, a function, or anything else that has a name."""

    attributes: Assignments = {}  # noqa: RUF012  # of a class; of a function, those that its module sets
    bases: tuple[str, ...] = ()  # of a class, as "module:name"; or where the object is imported from
    value: Any = COMPUTED  # of a name that is assigned
    is_imported: bool = False


class Definitions(NamedTuple):
    """The definitions of one module."""

    by_name: dict[str, Definition]
    is_complete: bool  # False if names may come from elsewhere: by `import *`, or a module that is not Python


def read_definitions(text: str) -> Definitions:
    """Those of the module or the file `text`; ValueError in one line, without the flag, if there is none."""
    path = _find_source(text)
    if path is None:
        return Definitions({}, is_complete=False)
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError, OSError) as error:
        raise ValueError(f"cannot import {text}: {in_one_line(error)}") from None
    return _definitions(tree, text)


def _find_source(text: str) -> Path | None:
    """The file of a module, None if it has no source; packages above it are not imported."""
    add_to_path(os.getcwd())
    if is_file_name(text):
        path = Path(text).absolute()
        if not path.is_file():
            raise ValueError(f"{text}: no such file in {os.getcwd()}")
        add_to_path(str(path.parent))
        return path
    first, *rest = text.split(".")
    try:
        spec = importlib.util.find_spec(first) if first else None
        name = first
        for part in rest:
            folders = spec.submodule_search_locations if spec else None
            name = f"{name}.{part}"
            spec = importlib.machinery.PathFinder.find_spec(name, folders) if folders else None
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot import {text}: {in_one_line(error)}") from None
    if spec is None:
        raise ValueError(f"cannot import {text}: no module of that name in {os.getcwd()} or on the import path")
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _definitions(tree: ast.Module, module: str) -> Definitions:
    statements = list(_top_level(tree.body))
    imports, is_complete = _imports(statements, module)
    found = {name: Definition(bases=(_as_object(source),), is_imported=True) for name, source in imports.items()}
    for statement in statements:
        match statement:
            case ast.ClassDef():
                names = [_dotted(base) for base in statement.bases]
                bases = tuple(_qualified(name, imports, module) for name in names if name)
                found[statement.name] = Definition(_assignments(statement.body), bases)
            case ast.FunctionDef():
                found[statement.name] = Definition({})
                is_complete &= statement.name != "__getattr__"
    for target, value in _assignments(statements).items():
        owner, _, attribute = target.rpartition(".")
        if not owner:
            found[target] = Definition(value=value)
        elif owner in found and "." not in owner:
            found[owner] = found[owner]._replace(attributes=found[owner].attributes | {attribute: value})
    return Definitions(found, is_complete)


def _top_level(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """These statements, and those within conditions and attempts."""
    for statement in statements:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            yield from _top_level(statement.body)
            yield from _top_level(getattr(statement, "orelse", []))
            for handler in getattr(statement, "handlers", []):
                yield from _top_level(handler.body)


def _imports(statements: list[ast.stmt], module: str) -> tuple[dict[str, str], bool]:
    """Imported name -> where it is from, with dots; and whether these are all names."""
    imports, is_complete = {}, True
    for statement in statements:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                first = alias.name.partition(".")[0]
                imports[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(statement, ast.ImportFrom):
            above = "" if is_file_name(module) else ".".join(module.split(".")[: -statement.level])
            source = f"{above}.{statement.module or ''}".strip(".") if statement.level else statement.module
            for alias in statement.names:
                imports[alias.asname or alias.name] = f"{source}.{alias.name}"
                is_complete &= alias.name != "*"
    return imports, is_complete


def _assignments(statements: list[ast.stmt]) -> Assignments:
    """What is assigned to names, and to attributes such as `function.name`."""
    found: Assignments = {}
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value:
            targets, value = [statement.target], statement.value
        else:
            continue
        try:
            plain = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            plain = COMPUTED
        found |= {name: plain for target in targets if (name := _dotted(target))}
    return found


def _dotted(node: ast.expr) -> str:
    """The text of a name with dots; "" for any other expression."""
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return node.id if isinstance(node, ast.Name) else ""


def _qualified(name: str, imports: dict[str, str], module: str) -> str:
    """`module:name` of a name as it is used in `module`."""
    first, dot, rest = name.partition(".")
    return _as_object(f"{imports[first]}{dot}{rest}") if first in imports else f"{module}:{name}"


def _as_object(dotted: str) -> str:
    module, _, name = dotted.rpartition(".")
    return f"{module}:{name}"
