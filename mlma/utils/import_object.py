"""Objects by name: "module:name"."""

from __future__ import annotations

import importlib
from typing import Any


def import_object(name: str) -> Any:
    """Imports `module:name` and returns the object."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
