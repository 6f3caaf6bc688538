"""What the tests of DeepMind Lab share: the stand-in for its module, and the log of the calls to it.

The fixture that makes the stand-in importable is in tests/conftest.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlma.core.config import EnvironmentConfig

STAND_IN = Path(__file__).parent / "stand_in"
TRAIN, TEST = "rooms_collect_good_objects_train", "rooms_collect_good_objects_test"


def entries(lab_log: Path, key: str) -> list[Any]:
    """The entries of the log that have this key."""
    lines = [json.loads(line) for line in lab_log.read_text().splitlines()]
    return [line for line in lines if key in line]


def make_settings(tmp_path: Path, **changes: Any) -> EnvironmentConfig:
    """Settings with a level cache of their own."""
    return EnvironmentConfig(level_cache=str(tmp_path / "cache"), **changes)
