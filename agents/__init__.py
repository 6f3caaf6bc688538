"""The algorithms, one file each. The equations are in agents/ops/, the networks in agents/networks/.

A new algorithm is one file here and one entry in mlma/core/catalog.py.
"""

from __future__ import annotations

from mlma.core.catalog import ALGORITHMS
from mlma.core.config import Config
from mlma.core.types import Agent, EnvSpec
from mlma.utils.import_object import import_object


def make_agent(config: Config, spec: EnvSpec) -> Agent:
    """The agent of `--algorithm` with the network of `--agent_name`, for levels with this spec."""
    agent: Agent = import_object(ALGORITHMS[config.run.algorithm].agent)(config, spec)
    return agent
