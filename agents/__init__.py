"""The papers: one file per algorithm, and the networks. A new algorithm is a file here and a line in `make`."""

from __future__ import annotations

from mlma.config import Config
from mlma.types import Agent, EnvSpec


def make(config: Config, spec: EnvSpec) -> Agent:
    from agents.impala import Impala

    return {"impala": Impala}[config.algorithm](config, spec)
