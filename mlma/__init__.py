"""Multi-learner, multi-actor reinforcement learning. The Python API, in docs/guides/python_api.md:

    mlma.load_policy(logdir)   a trained policy
    mlma.train(...)            training in child processes
    mlma.read_run(logdir)      what a run has measured

Importing it imports nothing else: each name is loaded when it is used (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlma.api.policy import Policy, load_policy
    from mlma.api.run_data import RunData, Table, read_run
    from mlma.api.training import TrainingRun, train

__all__ = ["Policy", "RunData", "Table", "TrainingRun", "load_policy", "read_run", "train"]
_MODULES = {
    "Policy": "mlma.api.policy",
    "RunData": "mlma.api.run_data",
    "Table": "mlma.api.run_data",
    "TrainingRun": "mlma.api.training",
    "load_policy": "mlma.api.policy",
    "read_run": "mlma.api.run_data",
    "train": "mlma.api.training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'mlma' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
