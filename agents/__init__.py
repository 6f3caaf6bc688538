"""The algorithms, one file each; the equations are in ops/, the networks in networks/.

A new algorithm is a file here and a line in mlma/core/catalog.py.
"""

from __future__ import annotations

from mlma.core.catalog import ALGORITHMS
from mlma.core.config import Config
from mlma.core.types import Agent, EnvSpec
from mlma.utils.import_object import import_object


def make_agent(config: Config, spec: EnvSpec) -> Agent:
    """The agent of `--algorithm`, with the network of `--agent_name`."""
    agent: Agent = import_object(ALGORITHMS[config.run.algorithm].agent)(config, spec)
    return agent
