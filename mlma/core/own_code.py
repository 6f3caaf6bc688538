"""Algorithms and networks by their names: those of the catalog, and those of a module or file of the user's.

`module:NAME` and `./file.py:NAME`, as for levels. What the system must know about them stands in attributes of the
class or function, which are read from the source: TensorFlow, which the module imports, is not needed yet. Not here:
importing them (agents/own_code.py).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args, get_type_hints

from mlma.core.catalog import ALGORITHMS, NETWORKS, Algorithm, NetworkEntry
from mlma.core.config.flags import did_you_mean, is_own_name
from mlma.core.source_definitions import COMPUTED, Assignments, Definition, Definitions, read_definitions

LIKE = "like"  # attribute of an algorithm: the one of the catalog whose presets and properties it has
BUILT_IN = {algorithm.agent: name for name, algorithm in ALGORITHMS.items()}
MAX_NAMES = 8  # of a module that a message lists


def find_algorithm(name: str) -> Algorithm:
    """What is known about the algorithm; ValueError in one line for one's own that is missing or says nonsense."""
    if not is_own_name(name):
        return ALGORITHMS[name]
    declared, base = _declared(f"--algorithm={name}", name)
    like = declared.pop(LIKE, base)
    if like and like not in ALGORITHMS:
        hint = did_you_mean(str(like), ALGORITHMS)
        raise ValueError(f"--algorithm={name}: {LIKE} must be one of {', '.join(ALGORITHMS)}{hint}")
    parent = ALGORITHMS[like] if like else Algorithm(name)
    own = _checked(f"--algorithm={name}", Algorithm, declared, ("agent", "presets"))
    return dataclasses.replace(parent, agent=name, **own)


def find_network(name: str) -> NetworkEntry:
    """What is known about the network; ValueError in one line for one's own that is missing or says nonsense."""
    if not is_own_name(name):
        return NETWORKS[name]
    declared, _ = _declared(f"--agent_name={name}", name)
    own = _checked(f"--agent_name={name}", NetworkEntry, declared, ("build",))
    return NetworkEntry(name, **({"observations": "any", "recurrent": None, "deterministic_shards": False} | own))


def _declared(flag: str, name: str) -> tuple[Assignments, str]:
    """The attributes of an object and of the classes that it is made of, and the algorithm of the catalog, or ""."""
    module, _, attribute = name.rpartition(":")
    try:
        definitions = read_definitions(module)
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from None
    known = [each for each, found in definitions.by_name.items() if _may_be_called(found) and not found.is_imported]
    has = f"; it has {', '.join(known[:MAX_NAMES])}" if known else ""
    if attribute not in definitions.by_name and definitions.is_complete:
        raise ValueError(f"{flag}: {module} has no {attribute}{has}")
    if attribute in definitions.by_name and not _may_be_called(definitions.by_name[attribute]):
        raise ValueError(f"{flag}: is neither a class nor a function{has}")
    return _inherited(name, definitions, {name})


def _may_be_called(definition: Definition) -> bool:
    return definition.value is COMPUTED


def _inherited(name: str, definitions: Definitions, seen: set[str]) -> tuple[Assignments, str]:
    definition = definitions.by_name.get(name.rpartition(":")[2], Definition())
    attributes, algorithm = dict(definition.attributes), ""
    for base in definition.bases:
        if base in BUILT_IN:
            algorithm = algorithm or BUILT_IN[base]
        elif base not in seen:
            seen.add(base)
            try:
                others = read_definitions(base.rpartition(":")[0])
            except ValueError:  # the import of the module will say it
                continue
            inherited, of_base = _inherited(base, others, seen)
            attributes, algorithm = inherited | attributes, algorithm or of_base
    return attributes, algorithm


def _checked(flag: str, entry: type, declared: Assignments, others: tuple[str, ...]) -> dict[str, Any]:
    """The fields of an entry that are declared; `others` are not for attributes. ValueError for a wrong value."""
    hints = get_type_hints(entry)
    found = {}
    for field in (field.name for field in dataclasses.fields(entry) if field.name not in others):
        if field not in declared:
            continue
        kind, value = hints[field], declared[field]
        allowed = get_args(kind) if getattr(kind, "__origin__", None) is Literal else (True, False)
        if not any(value is each or (isinstance(each, str) and value == each) for each in allowed):
            words = ", ".join(map(repr, allowed))
            why = " as a plain value, since it is read before the module is imported" if value is COMPUTED else ""
            raise ValueError(f"{flag}: {field} must be one of {words}{why}")
        found[field] = value
    return found
