"""The papers: one file per algorithm, and the networks. A new algorithm is a file here and a line in `make`."""

from __future__ import annotations

from collections.abc import Callable

from mlma.core.config.config import Config
from mlma.core.types import Agent, EnvSpec


def make_agent(config: Config, spec: EnvSpec) -> Agent:
    from agents.apex import Apex
    from agents.impala import Impala
    from agents.r2d2 import R2D2

    algorithms: dict[str, Callable[[Config, EnvSpec], Agent]] = {"impala": Impala, "apex": Apex, "r2d2": R2D2}
    return algorithms[config.algorithm](config, spec)
