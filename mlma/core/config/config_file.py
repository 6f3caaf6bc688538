"""Files of flags for `--config`: TOML (.toml), YAML (.yaml, .yml), and JSON, which is what a run writes.

All three hold flags by name, without sections. A value goes the way of the command line: as text to its flag. Not here:
the order of files, presets and flags (mlma/core/config/config.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlma.core.config.flags import Flag, current_names, did_you_mean
from mlma.core.config.json_object import json_object
from mlma.core.config.yaml_file import Entry, read_yaml
from mlma.utils.input_file import read_input_file
from mlma.utils.own_files import check_own_file
from mlma.utils.user_text import shown

Converted = TypeVar("Converted")
MAX_BYTES = 2**20  # a configuration with every flag has 5,000


def read_config_file(path: str, table: Mapping[str, Flag]) -> dict[str, Any]:
    """Flag -> value; ValueError in one line that names the file, and the line if it is known."""
    return read_entries(path, f"--config={shown(path)}", lambda entries: parse_entries(entries, dict(table)))


def read_entries(path: str, name: str, convert: Callable[[list[Entry]], Converted]) -> Converted:
    """What `convert` makes of the entries of a file; ValueError in one line that begins with `name`, its own, too."""
    check_own_file(Path(path), name)
    try:
        data = read_input_file(path, MAX_BYTES)
        try:
            text = data.decode("utf-8-sig")  # editors of Windows write a mark at the start
        except UnicodeDecodeError:
            raise ValueError(f"not {_format(path)}: must be UTF-8 text") from None
        return convert(_READERS[_format(path)](text))
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _format(path: str) -> str:
    return {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML"}.get(Path(path).suffix.lower(), "JSON")


def parse_entries(entries: list[Entry], table: dict[str, Flag]) -> dict[str, Any]:
    """The values of the flags; ValueError for one that does not exist, is given twice or is out of bounds."""
    renamed, parsed = current_names(table), {}
    for given, value, line in entries:
        where = f"line {line}: " if line else ""
        name = given.replace("-", "_")
        name = renamed.get(name, name)
        if name not in table:
            sections = "; flags have no sections" if isinstance(value, dict) else did_you_mean(given, table)
            raise ValueError(f"{where}{shown(given)}: no such flag{sections}")
        if name in parsed:
            raise ValueError(f"{where}{shown(given)}: is given twice")
        try:
            parsed[name] = parse_value(table[name], value)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from None
    return parsed


def parse_value(flag: Flag, value: Any) -> Any:
    """The value of a flag in a file; ValueError that names the flag."""
    if isinstance(value, dict) and flag.check is json_object:
        try:
            value = json.dumps(value)
        except (TypeError, RecursionError):  # a date of TOML
            raise ValueError(f"--{flag.name}: must be text, a number, a boolean, a list or a table") from None
    if not isinstance(value, str | int | float):
        raise ValueError(f"--{flag.name}: must be {flag.allowed}")
    parsed = flag.parse(flag.format(value))
    flag.check_bounds(parsed)
    return parsed


def _read_json(text: str) -> list[Entry]:
    try:
        values = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("not JSON that this program writes: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError("must be one JSON object, with the names of flags as keys")
    return [Entry(name, value, _line(text, rf'"{re.escape(name)}"\s*:')) for name, value in values.items()]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{shown(name)}: is given twice")
        values[name] = value
    return values


def _read_toml(text: str) -> list[Entry]:
    import tomllib  # only who has such a file pays for it

    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError("not TOML: nested too deeply") from None
    except ValueError as error:
        where = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        line, problem = (f"line {where[1]}: ", str(error)[: where.start()]) if where else ("", str(error))
        raise ValueError(f"{line}not TOML: {problem}") from None
    return [Entry(name, value, _line(text, rf"""["']?{re.escape(name)}["']?\s*=""")) for name, value in values.items()]


def _line(text: str, pattern: str) -> int:
    """The line that begins with the pattern; 0 if there is none, or more than one, as in a text of several lines."""
    found = [number for number, line in enumerate(text.split("\n"), 1) if re.match(rf"\s*\{{?\s*{pattern}", line)]
    return found[0] if len(found) == 1 else 0


_READERS = {"JSON": _read_json, "TOML": _read_toml, "YAML": read_yaml}
