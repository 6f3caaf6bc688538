"""The value of a flag that is a JSON object, such as `--env_args='{"size": 8}'`."""

from __future__ import annotations

import json
from typing import Any

MUST_BE = 'must be a JSON object such as {"size": 8}'


def json_object(text: str) -> dict[str, Any]:
    """The object; empty for an empty text. ValueError in one line for anything else."""
    if not text:
        return {}
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except RecursionError:
        raise ValueError(f"{MUST_BE}: too deep") from None
    except ValueError as error:
        raise ValueError(f"{MUST_BE}: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(MUST_BE)
    return value


def canonical_json(text: str) -> str:
    """The same object in the form that is compared: keys in order, usual spaces, and empty for an empty object."""
    value = json_object(text)
    return json.dumps(value, sort_keys=True) if value else ""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{duplicates[0]} is given twice")
    return dict(pairs)
